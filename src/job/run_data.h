// What a training run reads: its configuration, and the data with what they decide of it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/core/digest.h"
#include "src/data/sample_stream.h"
#include "src/data/token_set.h"

namespace mnemo {

struct RunData {
  v1::RunConfig config;  // effective, its vocabulary set
  std::shared_ptr<const TokenSet> training;
  std::unique_ptr<EvaluationStream> held_out;  // null: none given
};

// Opens what `written` names. `name` heads the problems of the configuration. Errors are for the
// user: one line each.
absl::StatusOr<RunData> OpenRunData(const v1::RunConfig& written, const std::string& name);

// Fills in the defaults and what the data decides: model.vocabulary. InvalidArgument if the
// configuration is wrong or its vocabulary is smaller than the tokenizer's.
absl::StatusOr<v1::RunConfig> ResolveConfig(const v1::RunConfig& written, const std::string& name,
                                            const ShardTokenizer& tokenizer);

// Of the shards' order and headers, wherever they lie: what decides which tokens a step reads. The
// headers hold the digests of all blocks, so this is a digest of the text.
Digest DataDigest(const TokenSet& set);

}  // namespace mnemo
