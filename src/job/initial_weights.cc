#include "src/job/initial_weights.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>
#include <vector>

#include "src/ckpt/model_source.h"
#include "src/core/backend.h"
#include "src/core/config_difference.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/agreement.h"
#include "src/job/own_shard.h"
#include "src/model/config_check.h"
#include "src/model/door.h"

namespace mnemo {
namespace {

// Settings of `model` that decide about first values only.
constexpr std::array<std::string_view, 5> kFirstValues = {
    "memory.initial_weights", "memory.gates.theta_bias", "memory.gates.eta_bias",
    "memory.gates.alpha_first", "memory.gates.alpha_last"};
// With which the same weights compute something else, as may be wanted.
constexpr std::array<std::string_view, 5> kMayChange = {
    "attention.window", "attention.segment", "attention.rope_base", "memory.chunk", "memory.clamp"};

bool Holds(const std::array<std::string_view, 5>& list, const std::string& path) {
  return std::find(list.begin(), list.end(), path) != list.end();
}

absl::Status CheckModel(const std::string& name, const v1::ModelConfig& theirs,
                        const v1::ModelConfig& ours) {
  for (const ConfigDifference& d : ConfigDifferences(theirs, ours)) {
    if (Holds(kFirstValues, d.path) || Holds(kMayChange, d.path)) continue;
    return FailedPrecondition(
        "train.init_from: {} is of another model: model.{} is {} there and {} here; take the same, "
        "or weights of this model",
        name, d.path, d.before, d.after);
  }
  for (const ConfigDifference& d : ConfigDifferences(theirs, ours)) {
    if (!Holds(kMayChange, d.path)) continue;
    LogWarning("train.init_from: {} was trained with model.{} = {}, and goes on with {}", name,
               d.path, d.before, d.after);
  }
  return absl::OkStatus();
}

absl::Status CheckTokenizer(const std::string& name, const ModelTokenizer& theirs,
                            const ShardTokenizer& ours) {
  if (theirs.hash == ours.hash.Hex()) return absl::OkStatus();
  return FailedPrecondition(
      "train.init_from: {} was trained with the {} tokenizer {}, and data.shards were made "
      "with the {} tokenizer {}: prepare them again with the tokenizer of the model",
      name, theirs.kind, theirs.hash, ours.kind, ours.hash.Hex());
}

std::vector<ExpectedTensor> WholeTensors(const v1::ModelConfig& model) {
  std::vector<ExpectedTensor> expected;
  for (const ParameterInfo& info : DescribeParameters(MakeSpec(model))) {
    expected.push_back({info.name, info.shape});
  }
  return expected;
}

// Whether `path` is `directory` or below it, through whatever links.
bool LiesBelow(const std::string& path, const std::string& directory) {
  std::error_code error;
  const auto below = std::filesystem::weakly_canonical(path, error);
  auto above = std::filesystem::weakly_canonical(directory, error);
  if (!above.has_filename()) above = above.parent_path();
  return std::mismatch(above.begin(), above.end(), below.begin(), below.end()).first == above.end();
}

}  // namespace

absl::StatusOr<std::string> FindInitialWeights(FileSystem& fs, const v1::RunConfig& config,
                                               const ShardTokenizer& tokenizer,
                                               const std::string& run_directory) {
  const std::string& from = config.train().init_from();
  if (from.empty()) return std::string();
  if (LiesBelow(from, run_directory)) {
    return FailedPrecondition(
        "train.init_from: {} lies in the run's own directory, {}, which is written anew: name "
        "another --run-dir, or move the weights",
        from, run_directory);
  }
  const auto source = ModelSource::Open(fs, from);
  if (!source.ok()) {
    return absl::Status(source.status().code(),
                        fmt::format("train.init_from: {}", std::string(source.status().message())));
  }
  MNEMO_ASSIGN_OR_RETURN(const ModelDescription description, source->Describe());
  const std::string name = source->config_name();
  // What an older program did not know has its default.
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig theirs, EffectiveConfig(description.config, name));
  MNEMO_RETURN_IF_ERROR(CheckModel(name, theirs.model(), config.model()));
  MNEMO_RETURN_IF_ERROR(CheckTokenizer(name, description.tokenizer, tokenizer));
  MNEMO_RETURN_IF_ERROR(source->Check(WholeTensors(config.model())));
  return source->directory();
}

absl::Status VerifyInitialWeights(FileSystem& fs, const std::string& directory,
                                  const v1::ModelConfig& model) {
  if (directory.empty()) return absl::OkStatus();
  MNEMO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(fs, directory));
  for (const ExpectedTensor& tensor : WholeTensors(model)) {
    MNEMO_RETURN_IF_ERROR(
        source.ReadBox(tensor.name, WholeBox(tensor.shape), DType::kF32).status());
  }
  return absl::OkStatus();
}

absl::Status ReadInitialWeights(FileSystem& fs, const std::string& directory, Trainer& trainer) {
  const auto read = [&]() -> absl::StatusOr<std::string> {
    MNEMO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(fs, directory));
    MNEMO_RETURN_IF_ERROR(source.Check(WholeTensors(trainer.config().model())));
    for (const ParameterRows& rows : OwnShard(trainer).rows) {
      const ParameterInfo& info = trainer.parameters().info(rows.parameter);
      const Tensor into = RowsOf(trainer.parameters(), rows);
      MNEMO_ASSIGN_OR_RETURN(
          const Tensor value,
          source.ReadBox(info.name, {RowStart(info, rows.begin), into.shape()}, into.dtype()));
      Backend::For(into.device()).Copy(value.To(into.device()), into);
    }
    return std::string();
  };
  MNEMO_RETURN_IF_ERROR(Exchange(trainer.ranks(), AtTheDoor(read)).status());
  return GatherShards(trainer);
}

}  // namespace mnemo
