#include "src/cli/config_flags.h"

#include <filesystem>

#include "src/core/config_text.h"
#include "src/core/file_system.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

// Without a slash at its end.
std::string AbsolutePath(const std::string& path) {
  return (std::filesystem::absolute(path) / ".").lexically_normal().parent_path();
}

}  // namespace

void ConfigFlags::AddConfigTo(CLI::App& command) {
  command.add_option("config", path, "Run configuration in protobuf text format (configs/)")
      ->required()
      ->type_name("CONFIG");
  command
      .add_option("--set", overrides,
                  "Override a field, for instance --set train.slice=512; may be repeated, later "
                  "ones win")
      ->type_name("PATH=VALUE")
      ->allow_extra_args(false);
  command.add_option("--steps", steps, "Optimizer steps, instead of train.steps")->type_name("N");
}

void ConfigFlags::AddTo(CLI::App& command) {
  AddConfigTo(command);
  command
      .add_option("--shards", shards,
                  "Training shards: files, patterns or directories, instead of data.shards")
      ->type_name("PATH");
  command
      .add_option(
          "--eval-shards", evaluation,
          "Held-out shards, instead of data.evaluation; one directory may serve both, if it "
          "was prepared with --holdout")
      ->type_name("PATH");
}

void ConfigFlags::AddRunTo(CLI::App& command) {
  command
      .add_option("--every", every,
                  "Steps between checkpoints, instead of train.checkpoint_every; 0: only at the "
                  "end and when the run is stopped")
      ->type_name("N");
  command
      .add_option("--keep", keep,
                  "Checkpoints kept, the newest, instead of train.checkpoint_keep; 0: 3")
      ->type_name("N");
  command
      .add_option("--init-from", init_from,
                  "Begin with the weights of a model directory, an export, a checkpoint or a run, "
                  "instead of train.init_from; all else begins anew. Not read again by a run that "
                  "goes on from a checkpoint of its own")
      ->type_name("DIR");
}

absl::StatusOr<v1::RunConfig> ConfigFlags::Load() const {
  v1::RunConfig config;
  MNEMO_RETURN_IF_ERROR(LoadConfigFile(FileSystem::Posix(), path, &config));
  if (steps.has_value()) config.mutable_train()->set_steps(*steps);
  if (every.has_value()) config.mutable_train()->set_checkpoint_every(*every);
  if (keep.has_value()) config.mutable_train()->set_checkpoint_keep(*keep);
  if (!shards.empty()) {
    config.mutable_data()->mutable_shards()->Assign(shards.begin(), shards.end());
  }
  if (!evaluation.empty()) {
    config.mutable_data()->mutable_evaluation()->Assign(evaluation.begin(), evaluation.end());
  }
  if (!init_from.empty()) config.mutable_train()->set_init_from(init_from);
  MNEMO_RETURN_IF_ERROR(ApplyOverrides(overrides, &config));
  if (!config.train().init_from().empty()) {
    config.mutable_train()->set_init_from(AbsolutePath(config.train().init_from()));
  }
  return config;
}

}  // namespace mnemo
