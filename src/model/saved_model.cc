#include "src/model/saved_model.h"

#include "src/ckpt/model_directory.h"
#include "src/ckpt/model_source.h"
#include "src/core/config_text.h"
#include "src/core/status.h"
#include "src/model/config_check.h"
#include "src/model/door.h"
#include "src/model/execution.h"

namespace mnemo {
namespace {

absl::Status Override(std::span<const std::string> overrides, v1::RunConfig& config) {
  for (const std::string& override : overrides) {
    if (!override.starts_with("execution.")) {
      return InvalidArgument(
          "--set {}: a trained model's configuration is fixed; only execution.* can be set",
          override);
    }
  }
  return ApplyOverrides(overrides, &config);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizer(const ModelTokenizer& saved,
                                                               const std::string& directory) {
  auto tokenizer = MakeTokenizer(saved.kind, saved.model);
  if (!tokenizer.ok()) {
    return absl::Status(
        tokenizer.status().code(),
        fmt::format("{}: the tokenizer: {}", directory, std::string(tokenizer.status().message())));
  }
  const ShardTokenizer description = (*tokenizer)->description();
  if (description.hash.Hex() != saved.hash || description.vocabulary != saved.vocabulary ||
      description.separator != saved.separator) {
    return DataLoss("{}: the tokenizer and its description do not belong together", directory);
  }
  return *std::move(tokenizer);
}

struct Checked {
  ModelDescription description;  // with every default filled in
  std::unique_ptr<const Tokenizer> tokenizer;
  std::vector<ParameterInfo> infos;
};

// Everything but the parameters.
absl::StatusOr<Checked> ReadChecked(const ModelSource& source,
                                    std::span<const std::string> overrides) {
  Checked checked;
  ModelDescription& description = checked.description;
  MNEMO_ASSIGN_OR_RETURN(description, source.Describe());
  MNEMO_RETURN_IF_ERROR(Override(overrides, description.config));
  MNEMO_ASSIGN_OR_RETURN(description.config,
                         EffectiveConfig(description.config, source.config_name()));
  MNEMO_ASSIGN_OR_RETURN(checked.tokenizer,
                         LoadTokenizer(description.tokenizer, source.directory()));
  if (description.config.model().vocabulary() < checked.tokenizer->vocabulary()) {
    return DataLoss("{}: model.vocabulary = {}, but the tokenizer has {}", source.config_name(),
                    description.config.model().vocabulary(), checked.tokenizer->vocabulary());
  }
  checked.infos = DescribeParameters(MakeSpec(description.config.model()));
  return checked;
}

std::vector<ExpectedTensor> ExpectedOf(const std::vector<ParameterInfo>& infos) {
  std::vector<ExpectedTensor> expected;
  for (const ParameterInfo& info : infos) expected.push_back({info.name, info.shape});
  return expected;
}

}  // namespace

absl::Status SaveModel(FileSystem& fs, const std::string& directory, const v1::RunConfig& config,
                       const ParameterSet& parameters, const Tokenizer& tokenizer) {
  const ShardTokenizer description = tokenizer.description();
  const ModelDescription model{config,
                               {.kind = description.kind,
                                .hash = description.hash.Hex(),
                                .vocabulary = description.vocabulary,
                                .separator = description.separator,
                                .model = tokenizer.model()}};
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < parameters.size(); ++i) {
    tensors.push_back({parameters.info(i).name, parameters[i]});
  }
  return WriteModelDirectory(fs, directory, model, Streamed(tensors)).status();
}

absl::StatusOr<SavedModel> LoadModel(FileSystem& fs, const std::string& directory,
                                     std::span<const std::string> overrides) {
  MNEMO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(fs, directory));
  MNEMO_ASSIGN_OR_RETURN(Checked checked, ReadChecked(source, overrides));
  const v1::ExecutionConfig& execution = checked.description.config.execution();
  MNEMO_ASSIGN_OR_RETURN(std::vector<Tensor> values,
                         source.Read(ExpectedOf(checked.infos), WideType(ComputeDType(execution))));
  MNEMO_RETURN_IF_ERROR(AtTheDoor([&] {
    for (Tensor& value : values) value = value.To(ComputeDevice(execution));
    return absl::OkStatus();
  }));
  SavedModel model;
  model.config = checked.description.config;
  model.spec = MakeSpec(model.config.model());
  model.parameters = ParameterSet(std::move(checked.infos), std::move(values));
  MNEMO_RETURN_IF_ERROR(AtTheDoor([&] {
    model.parameters.AddComputeCopies(ComputeDType(execution));
    return absl::OkStatus();
  }));
  model.tokenizer = std::move(checked.tokenizer);
  return model;
}

absl::StatusOr<ExportedModel> ExportModel(FileSystem& fs, const std::string& from,
                                          const std::string& to, int64_t shard_bytes) {
  MNEMO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(fs, from));
  MNEMO_ASSIGN_OR_RETURN(const Checked checked, ReadChecked(source, {}));
  MNEMO_RETURN_IF_ERROR(source.Check(ExpectedOf(checked.infos)));
  std::vector<StreamedTensor> tensors;
  ExportedModel exported;
  for (const ParameterInfo& info : checked.infos) {
    exported.parameters += ElementCount(info.shape);
    tensors.push_back({info.name, DType::kF32, info.shape, [&source, &info] {
                         return source.ReadBox(info.name, WholeBox(info.shape), DType::kF32);
                       }});
  }
  MNEMO_ASSIGN_OR_RETURN(exported.files,
                         WriteModelDirectory(fs, to, checked.description, tensors, shard_bytes));
  return exported;
}

}  // namespace mnemo
