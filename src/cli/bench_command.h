// The subcommands of `mnemo bench`, each in a file of its own, and what they share.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "src/cli/command.h"
#include "src/core/tensor.h"

namespace mnemo {

void AddBenchStability(CLI::App& bench, Action& chosen);
void AddBenchMemory(CLI::App& bench, Action& chosen);
void AddBenchOps(CLI::App& bench, Action& chosen);
void AddBenchRecall(CLI::App& bench, Action& chosen);
void AddBenchLong(CLI::App& bench, Action& chosen);
void AddBenchStep(CLI::App& bench, Action& chosen);
void AddBenchCkpt(CLI::App& bench, Action& chosen);
void AddBenchAccuracy(CLI::App& bench, Action& chosen);

// Declares --dtype, f32 or f64.
void AddDTypeFlag(CLI::App& command, DType& dtype);

// Unavailable if WriteBenchJson could not write `path`: to be called before hours of work.
absl::Status CheckBenchJson(const std::string& path);

// Adds the program's version, the machine, its threads and the date to what was measured, and
// writes it; nothing if `path` is empty.
absl::Status WriteBenchJson(const std::string& path, nlohmann::json result);

}  // namespace mnemo
