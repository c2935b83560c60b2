#include "src/data/tokenizer.h"

#include "src/core/status.h"

namespace mnemo {

ShardTokenizer Tokenizer::description() const {
  return {std::string(kind()), TokenizerHash(kind(), model()), vocabulary(), separator()};
}

Digest TokenizerHash(std::string_view kind, std::string_view model) {
  DigestStream stream;
  stream.Update(kind);
  stream.Update(std::string_view("\0", 1));
  stream.Update(model);
  return stream.Finish();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(std::string_view kind, std::string model) {
  if (kind == kSentencePieceTokenizer) return MakeSentencePieceTokenizer(std::move(model));
  if (kind != kBytesTokenizer) {
    return InvalidArgument("there is no tokenizer '{}': bytes or sentencepiece", kind);
  }
  if (!model.empty()) return InvalidArgument("the bytes tokenizer has no model file");
  return MakeBytesTokenizer();
}

}  // namespace mnemo
