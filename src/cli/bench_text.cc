#include "src/cli/bench_text.h"

#include "src/core/status.h"
#include "src/data/token_set.h"

namespace mnemo {

absl::StatusOr<std::vector<int32_t>> ReadHeldOutText(const std::vector<std::string>& shards,
                                                     const SavedModel& model, int64_t tokens) {
  MNEMO_ASSIGN_OR_RETURN(const auto set, TokenSet::Open(shards, ShardRole::kEvaluation));
  if (set->tokenizer().hash != model.tokenizer->description().hash) {
    return InvalidArgument("the shards were written with another tokenizer than the model's");
  }
  if (set->tokens() < tokens) {
    return InvalidArgument(
        "the shards hold {} tokens, --tokens asks for {}: give more shards, or fewer tokens",
        set->tokens(), tokens);
  }
  std::vector<int32_t> text(tokens);
  MNEMO_RETURN_IF_ERROR(set->ReadTokens(0, text));
  return text;
}

}  // namespace mnemo
