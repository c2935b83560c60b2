#include "src/data/sentencepiece/plugin.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <iostream>
#include <new>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using sentencepiece::SentencePieceProcessor;
using sentencepiece::util::Status;

constexpr const char* kSpace = "\xE2\x96\x81";  // U+2581: how pieces spell a space

void Put(MnemoSink sink, const std::string& bytes) {
  sink.write(sink.context, bytes.data(), bytes.size());
}

bool Report(const Status& status, MnemoSink error) {
  if (!status.ok()) Put(error, status.error_message());
  return status.ok();
}

const SentencePieceProcessor& Processor(const void* processor) {
  return *static_cast<const SentencePieceProcessor*>(processor);
}

void* Load(const char* model, size_t bytes, MnemoSink error) {
  auto* processor = new SentencePieceProcessor;
  if (Report(processor->LoadFromSerializedProto({model, bytes}), error)) return processor;
  delete processor;
  return nullptr;
}

void Free(void* processor) { delete static_cast<SentencePieceProcessor*>(processor); }

int32_t Vocabulary(const void* processor) { return Processor(processor).GetPieceSize(); }

int32_t EndOfSentence(const void* processor) { return Processor(processor).eos_id(); }

bool Encode(const void* processor, const char* text, size_t bytes, MnemoSink tokens,
            MnemoSink error) {
  std::vector<int> ids;
  if (!Report(Processor(processor).Encode({text, bytes}, &ids), error)) return false;
  static_assert(sizeof(int) == sizeof(int32_t));
  tokens.write(tokens.context, ids.data(), ids.size() * sizeof(int));
  return true;
}

bool Decode(const void* processor, const int32_t* tokens, size_t count, MnemoSink text,
            MnemoSink error) {
  std::string decoded;
  const std::vector<int> ids(tokens, tokens + count);
  if (!Report(Processor(processor).Decode(ids, &decoded), error)) return false;
  Put(text, decoded);
  return true;
}

bool DecodeOne(const void* processor, int32_t token, MnemoSink text, MnemoSink) {
  const SentencePieceProcessor& spm = Processor(processor);
  const std::string& piece = spm.IdToPiece(token);
  std::string plain;
  if (spm.IsByte(token)) {  // "<0x0A>"
    plain.push_back(static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
  } else if (!spm.IsControl(token) && !spm.IsUnused(token)) {
    for (size_t at = 0; at < piece.size();) {
      const bool space = piece.compare(at, 3, kSpace) == 0;
      plain.push_back(space ? ' ' : piece[at]);
      at += space ? 3 : 1;
    }
  }
  Put(text, plain);
  return true;
}

class Lines : public sentencepiece::SentenceIterator {
 public:
  Lines(void* context, bool (*next)(void*, const char**, size_t*))
      : context_(context), next_(next) {
    Next();
  }
  bool done() const override { return done_; }
  void Next() override {
    const char* line = nullptr;
    size_t bytes = 0;
    done_ = !next_(context_, &line, &bytes);
    if (!done_) value_.assign(line, bytes);
  }
  const std::string& value() const override { return value_; }
  Status status() const override { return {}; }

 private:
  void* context_;
  bool (*next_)(void*, const char**, size_t*);
  bool done_ = false;
  std::string value_;
};

bool Train(const char* flags, void* context, bool (*next)(void*, const char**, size_t*),
           MnemoSink model, MnemoSink error) {
  std::unordered_map<std::string, std::string> values;
  std::istringstream words(flags);
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    values[word.substr(0, equals)] = word.substr(equals + 1);
  }
  Lines lines(context, next);
  std::string trained;
  const Status status = sentencepiece::SentencePieceTrainer::Train(values, &lines, &trained);
  if (!Report(status, error)) return false;
  Put(model, trained);
  return true;
}

constexpr MnemoSentencePieceApi kApi = {Load,   Free,   Vocabulary, EndOfSentence,
                                        Encode, Decode, DecodeOne,  Train};

}  // namespace

extern "C" __attribute__((visibility("default"))) const MnemoSentencePieceApi* MnemoSentencePiece(
    void* standard_error) {
  auto* program = static_cast<std::ostream*>(standard_error);
  if (program != &std::cerr) new (&std::cerr) std::ostream(program->rdbuf());
  return &kApi;
}
