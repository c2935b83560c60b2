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
  MNEMO_ASSIGN_OR_RETURN(const int64_t parameters,
                         ExportModel(FileSystem::Posix(), options.model, options.out));
  fmt::print("{} parameters in {}/model.safetensors\n", parameters, options.out);
  return absl::OkStatus();
}

}  // namespace

void AddExportCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command = app.add_subcommand(
      "export",
      "Write a model for other programs: model.safetensors (f32) and config.json, as "
      "docs/model.md describes them.");
  command
      ->add_option("--model", options->model,
                   "Model directory, or a checkpoint, or a run, whose newest checkpoint is taken")
      ->required()
      ->type_name("DIR");
  command->add_option("--out", options->out, "Directory to write")->required()->type_name("DIR");
  command->add_flag("--overwrite", options->overwrite, "Replace a model in that directory");
  command->callback([&chosen, options] { chosen = [options] { return Export(*options); }; });
}

}  // namespace mnemo
