#include <cstring>

#include "src/core/status.h"
#include "src/data/sentencepiece/load_plugin.h"
#include "src/data/tokenizer.h"
#include "src/data/utf8.h"

namespace mnemo {
namespace {

MnemoSink Into(std::string& out) {
  return {&out, [](void* context, const void* data, size_t bytes) {
            static_cast<std::string*>(context)->append(static_cast<const char*>(data), bytes);
          }};
}

MnemoSink Into(std::vector<int32_t>& out) {
  return {&out, [](void* context, const void* data, size_t bytes) {
            auto& tokens = *static_cast<std::vector<int32_t>*>(context);
            const auto* first = static_cast<const int32_t*>(data);
            tokens.insert(tokens.end(), first, first + bytes / sizeof(int32_t));
          }};
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(const MnemoSentencePieceApi& api, void* processor, std::string model)
      : api_(api), processor_(processor), model_(std::move(model)) {}
  ~SentencePieceTokenizer() override { api_.free(processor_); }

  std::string_view kind() const override { return kSentencePieceTokenizer; }
  int64_t vocabulary() const override { return api_.vocabulary(processor_); }
  int32_t separator() const override { return api_.end_of_sentence(processor_); }
  const std::string& model() const override { return model_; }
  bool needs_utf8() const override { return true; }

  absl::Status Encode(std::string_view text, std::vector<int32_t>& out) const override {
    const size_t invalid = FirstInvalidUtf8(text);
    if (invalid < text.size()) return InvalidArgument("not UTF-8 at byte {}", invalid);
    std::string error;
    if (api_.encode(processor_, text.data(), text.size(), Into(out), Into(error))) {
      return absl::OkStatus();
    }
    return Internal("SentencePiece cannot encode: {}", error);
  }

  absl::StatusOr<std::string> Decode(std::span<const int32_t> tokens) const override {
    for (int32_t token : tokens) MNEMO_RETURN_IF_ERROR(CheckRange(token));
    std::string text, error;
    if (api_.decode(processor_, tokens.data(), tokens.size(), Into(text), Into(error))) return text;
    return Internal("SentencePiece cannot decode: {}", error);
  }

  absl::StatusOr<std::string> DecodeOne(int32_t token) const override {
    MNEMO_RETURN_IF_ERROR(CheckRange(token));
    std::string text, error;
    if (api_.decode_one(processor_, token, Into(text), Into(error))) return text;
    return Internal("SentencePiece cannot decode: {}", error);
  }

 private:
  absl::Status CheckRange(int32_t token) const {
    if (token >= 0 && token < vocabulary()) return absl::OkStatus();
    return InvalidArgument("token {} is outside the vocabulary of {}", token, vocabulary());
  }

  const MnemoSentencePieceApi& api_;
  void* processor_;
  std::string model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeSentencePieceTokenizer(std::string model) {
  MNEMO_ASSIGN_OR_RETURN(const MnemoSentencePieceApi* api, internal::SentencePieceApi());
  std::string error;
  void* processor = api->load(model.data(), model.size(), Into(error));
  if (processor == nullptr) {
    return InvalidArgument("this is not a SentencePiece model ({} bytes): {}", model.size(), error);
  }
  auto tokenizer = std::make_unique<SentencePieceTokenizer>(*api, processor, std::move(model));
  if (tokenizer->separator() < 0) {
    return InvalidArgument(
        "this SentencePiece model has no end-of-sentence piece to separate documents with: train "
        "it with --eos_id");
  }
  return tokenizer;
}

absl::StatusOr<std::string> TrainSentencePiece(
    const SentencePieceOptions& options,
    const std::function<std::optional<std::string_view>()>& next_line) {
  if (options.type != "unigram" && options.type != "bpe") {
    return InvalidArgument("SentencePiece type '{}': unigram or bpe", options.type);
  }
  if (options.vocabulary < 300 || options.vocabulary > 1000000) {
    return InvalidArgument(
        "a SentencePiece vocabulary of {} is outside 300 to 1000000 (256 are for bytes)",
        options.vocabulary);
  }
  MNEMO_ASSIGN_OR_RETURN(const MnemoSentencePieceApi* api, internal::SentencePieceApi());
  const std::string flags = fmt::format(
      "model_type={} vocab_size={} num_threads={} normalization_rule_name=identity "
      "remove_extra_whitespaces=false add_dummy_prefix=false byte_fallback=true "
      "allow_whitespace_only_pieces=true unk_id=0 eos_id=1 bos_id=-1 pad_id=-1 minloglevel=2",
      options.type, options.vocabulary, options.threads);
  using Next = std::function<std::optional<std::string_view>()>;
  std::string model, error;
  const bool ok = api->train(
      flags.c_str(), const_cast<Next*>(&next_line),
      [](void* context, const char** line, size_t* bytes) {
        const std::optional<std::string_view> next = (*static_cast<const Next*>(context))();
        if (!next.has_value()) return false;
        *line = next->data();
        *bytes = next->size();
        return true;
      },
      Into(model), Into(error));
  if (ok) return model;
  return InvalidArgument("SentencePiece cannot train {} pieces on this sample: {}",
                         options.vocabulary, error);
}

}  // namespace mnemo
