#include "src/job/run_data.h"

#include <utility>

#include "src/core/status.h"
#include "src/job/shard_source.h"
#include "src/model/config_check.h"

namespace mnemo {
namespace {

absl::StatusOr<std::shared_ptr<const TokenSet>> OpenShards(
    const google::protobuf::RepeatedPtrField<std::string>& paths, ShardRole role) {
  return TokenSet::Open({paths.begin(), paths.end()}, role);
}

absl::StatusOr<std::unique_ptr<EvaluationStream>> OpenHeldOut(const v1::RunConfig& config,
                                                              const std::string& name,
                                                              const TokenSet& training) {
  MNEMO_ASSIGN_OR_RETURN(auto set, OpenShards(config.data().evaluation(), ShardRole::kEvaluation));
  if (set->tokenizer() != training.tokenizer()) {
    return InvalidArgument(
        "{}: data.evaluation was made with another tokenizer than data.shards; prepare both with "
        "the same one",
        name);
  }
  if (const std::string shared = FirstSharedShard(training.files(), set->files());
      !shared.empty()) {
    return InvalidArgument(
        "{}: data.evaluation takes {}, which data.shards trains on: its loss would not be "
        "held-out; prepare the text with `mnemo data prepare --holdout 0.05`, which writes "
        "eval-*.h5 beside train-*.h5, or name files with other text (--eval-shards)",
        name, shared);
  }
  MNEMO_ASSIGN_OR_RETURN(auto stream,
                         OpenTokenStream(config.data(), MakeSpec(config.model()), std::move(set)));
  return EvaluationStream::Create(std::move(stream), config.train().sequence_length());
}

}  // namespace

absl::StatusOr<RunData> OpenRunData(const v1::RunConfig& written, const std::string& name) {
  if (written.data().shards().empty()) {
    return InvalidArgument(
        "{}: data.shards is empty: name token shards with --shards (made by `mnemo data prepare`)",
        name);
  }
  RunData data;
  MNEMO_ASSIGN_OR_RETURN(data.training, OpenShards(written.data().shards(), ShardRole::kTraining));
  MNEMO_ASSIGN_OR_RETURN(data.config, ResolveConfig(written, name, data.training->tokenizer()));
  // Too little text is to be known before anything is planned.
  MNEMO_RETURN_IF_ERROR(
      ShardSource::Create(data.config, MakeSpec(data.config.model()), data.training).status());
  if (!data.config.data().evaluation().empty()) {
    MNEMO_ASSIGN_OR_RETURN(data.held_out, OpenHeldOut(data.config, name, *data.training));
  }
  return data;
}

absl::StatusOr<v1::RunConfig> ResolveConfig(const v1::RunConfig& written, const std::string& name,
                                            const ShardTokenizer& tokenizer) {
  MNEMO_ASSIGN_OR_RETURN(v1::RunConfig config, EffectiveConfig(written, name));
  if (config.model().vocabulary() == 0) {
    config.mutable_model()->set_vocabulary(static_cast<int32_t>(tokenizer.vocabulary));
  }
  if (config.model().vocabulary() < tokenizer.vocabulary) {
    return InvalidArgument(
        "{}: model.vocabulary = {} but the shards' {} tokenizer has {}; leave it out to take the "
        "tokenizer's",
        name, config.model().vocabulary(), tokenizer.kind, tokenizer.vocabulary);
  }
  return config;
}

Digest DataDigest(const TokenSet& set) {
  std::string digests;
  for (int i = 0; i < set.shards(); ++i) {
    const auto& bytes = set.shard(i).digest().bytes;
    digests.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return DigestOf(digests);
}

}  // namespace mnemo
