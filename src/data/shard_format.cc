#include "src/data/shard_format.h"

#include <fmt/format.h>

namespace mnemo {

Digest HeaderDigest(const ShardHeader& header, std::string_view token_digests,
                    std::string_view offset_digests) {
  const ShardTokenizer& tokenizer = header.tokenizer;
  DigestStream stream;
  stream.Update(fmt::format(
      "format={}\nschema_version={}\nblock_bytes={}\ntokenizer_kind={}\ntokenizer_hash={}\n"
      "vocabulary={}\nseparator={}\ntokens={}\ndocuments={}\n",
      kShardFormat, kShardSchemaVersion, kShardBlockBytes, tokenizer.kind, tokenizer.hash.Hex(),
      tokenizer.vocabulary, tokenizer.separator, header.tokens, header.documents));
  stream.Update(token_digests);
  stream.Update(offset_digests);
  return stream.Finish();
}

std::string ShardFileName(std::string_view split, int64_t index) {
  return fmt::format("{}-{:05d}.h5", split, index);
}

}  // namespace mnemo
