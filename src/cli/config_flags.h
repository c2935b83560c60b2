// The flags with which commands take a run configuration.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"

namespace mnemo {

struct ConfigFlags {
  std::string path, init_from;
  std::vector<std::string> overrides, shards, evaluation;
  std::optional<int64_t> steps, every;
  std::optional<int32_t> keep;

  // Declares CONFIG, --set and --steps. `this` outlives the parsing.
  void AddConfigTo(CLI::App& command);
  // These, --shards and --eval-shards.
  void AddTo(CLI::App& command);
  // --every and --keep, of checkpoints, and --init-from.
  void AddRunTo(CLI::App& command);
  // Reads the file and applies the flags, --set last. Defaults are not filled in; train.init_from
  // is made absolute, as a run is known by it.
  absl::StatusOr<v1::RunConfig> Load() const;
};

}  // namespace mnemo
