#include "src/core/status.h"
#include "src/data/tokenizer.h"

namespace mnemo {
namespace {

constexpr int32_t kSeparator = 256;
constexpr int64_t kVocabulary = 264;

class BytesTokenizer : public Tokenizer {
 public:
  std::string_view kind() const override { return kBytesTokenizer; }
  int64_t vocabulary() const override { return kVocabulary; }
  int32_t separator() const override { return kSeparator; }
  const std::string& model() const override { return model_; }
  bool needs_utf8() const override { return false; }

  absl::Status Encode(std::string_view text, std::vector<int32_t>& out) const override {
    const size_t start = out.size();
    out.resize(start + text.size());
    for (size_t i = 0; i < text.size(); ++i) out[start + i] = static_cast<uint8_t>(text[i]);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Decode(std::span<const int32_t> tokens) const override {
    std::string text;
    for (int32_t token : tokens) {
      if (token < 0 || token >= kVocabulary) {
        return InvalidArgument("token {} is outside the vocabulary of {}", token, kVocabulary);
      }
      if (token < 256) text.push_back(static_cast<char>(token));
    }
    return text;
  }

  absl::StatusOr<std::string> DecodeOne(int32_t token) const override {
    return Decode({&token, 1});
  }

 private:
  std::string model_;  // empty: there is nothing to know
};

}  // namespace

std::unique_ptr<Tokenizer> MakeBytesTokenizer() { return std::make_unique<BytesTokenizer>(); }

}  // namespace mnemo
