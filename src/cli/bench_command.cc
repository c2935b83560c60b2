#include "src/cli/bench_command.h"

#include <ctime>
#include <fstream>
#include <string_view>

#include "src/core/file_system.h"
#include "src/core/status.h"
#include "src/core/thread_pool.h"

namespace mnemo {
namespace {

// "model name : ..." of the first processor; empty where there is no such line.
std::string ProcessorName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return {};
}

std::string UtcNow() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

}  // namespace

void AddDTypeFlag(CLI::App& command, DType& dtype) {
  command
      .add_option_function<std::string>(
          "--dtype",
          [&dtype](const std::string& name) { dtype = name == "f64" ? DType::kF64 : DType::kF32; },
          "Number format: f32 or f64")
      ->check(CLI::IsMember({"f32", "f64"}))
      ->default_str("f32");
}

absl::Status CheckBenchJson(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  FileSystem& fs = FileSystem::Posix();
  const std::string probe = path + ".tmp";  // as WriteFileAtomically names it
  MNEMO_RETURN_IF_ERROR(fs.Create(probe).status());
  return fs.Remove(probe);
}

absl::Status WriteBenchJson(const std::string& path, nlohmann::json result) {
  if (path.empty()) return absl::OkStatus();
  result["version"] = std::string(VersionText());
  result["processor"] = ProcessorName();
  result["threads"] = ThreadsForThisThread();
  result["date"] = UtcNow();
  return WriteFileAtomically(FileSystem::Posix(), path, result.dump(2) + "\n");
}

void AddBenchCommand(CLI::App& app, Action& chosen) {
  CLI::App* bench = app.add_subcommand("bench", "Measure stability, accuracy, recall and speed.");
  bench->require_subcommand(1);
  AddBenchStability(*bench, chosen);
  AddBenchMemory(*bench, chosen);
  AddBenchOps(*bench, chosen);
  AddBenchRecall(*bench, chosen);
  AddBenchLong(*bench, chosen);
  AddBenchStep(*bench, chosen);
  AddBenchCkpt(*bench, chosen);
  AddBenchAccuracy(*bench, chosen);
}

}  // namespace mnemo
