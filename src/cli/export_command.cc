#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "src/cli/command.h"
#include "src/core/status.h"
#include "src/model/saved_model.h"

namespace mnemo {
namespace {

struct ExportOptions {
  std::string model, out;
  int64_t shard_bytes = kDefaultShardBytes;
  bool overwrite = false;
};

absl::Status CheckOut(const ExportOptions& options) {
  std::error_code error;
  if (std::filesystem::equivalent(options.model, options.out, error)) {
    return InvalidArgument("--out is the model itself, {}: choose another directory",
                           options.model);
  }
  if (options.overwrite || !FileSystem::Posix().Exists(options.out + "/config.json")) {
    return absl::OkStatus();
  }
  return FailedPrecondition("{} holds a model: choose another --out, or give --overwrite",
                            options.out);
}

absl::Status Export(const ExportOptions& options) {
  MNEMO_RETURN_IF_ERROR(CheckOut(options));
  MNEMO_ASSIGN_OR_RETURN(
      const ExportedModel exported,
      ExportModel(FileSystem::Posix(), options.model, options.out, options.shard_bytes));
  if (exported.files == 1) {
    fmt::print("{} parameters in {}/{}\n", exported.parameters, options.out, kWeightsName);
  } else {
    fmt::print("{} parameters in {} files and {}/{}\n", exported.parameters, exported.files,
               options.out, kWeightsIndexName);
  }
  return absl::OkStatus();
}

}  // namespace

void AddExportCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command = app.add_subcommand(
      "export",
      "Write a model for other programs, as docs/model.md describes it: config.json and "
      "model.safetensors (f32), or several such files with an index where that would be too "
      "large. One tensor at a time is held in memory.");
  command
      ->add_option("--model", options->model,
                   "Model directory, or a checkpoint, or a run, whose newest checkpoint is taken")
      ->required()
      ->type_name("DIR");
  command->add_option("--out", options->out, "Directory to write")->required()->type_name("DIR");
  command
      ->add_option(
          "--max-shard-size", options->shard_bytes,
          "Bytes of tensors in one file (5000000, 200MB, 4GiB); a larger tensor has a file "
          "of its own. What exceeds one file is written as model-00001-of-0000N.safetensors "
          "and so on, with model.safetensors.index.json")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 62))
      ->type_name("SIZE")
      ->default_str("5GB");
  command->add_flag("--overwrite", options->overwrite,
                    "Replace a model in that directory, when the new one is whole");
  command->callback([&chosen, options] { chosen = [options] { return Export(*options); }; });
}

}  // namespace mnemo
