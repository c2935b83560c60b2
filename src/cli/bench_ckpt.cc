#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "src/cli/bench_command.h"
#include "src/cli/config_flags.h"
#include "src/cli/python_script.h"
#include "src/core/file_system.h"
#include "src/core/status.h"
#include "src/core/thread_pool.h"
#include "src/job/checkpoint_bench.h"
#include "src/job/save_bench.h"
#include "src/model/config_check.h"
#include "src/model/execution.h"

namespace mnemo {
namespace {

struct CkptBenchFlags {
  CheckpointBenchOptions bench;
  bool compare = false;
  ConfigFlags train;  // whose steps are slowed by saves
  SaveBenchOptions saves;
  std::string python = "python3", json;
};

// PyTorch's side, or why there is none.
struct TorchCheckpoints {
  nlohmann::json said = nlohmann::json::object();
  BenchTimes save{"save", 0, {}}, load{"load", 0, {}};
  absl::Status status;
};

std::string SecondsAndRate(const BenchTimes& times) {
  return fmt::format("{:.3f} s, {:.2f} GB/s, ±{:.0f} %", times.median(), times.rate() * 1e-9,
                     50 * times.spread());
}

void PrintComparison(const BenchComparison& one) {
  for (size_t i = 0; i < one.plain.size(); ++i) {
    const BenchTimes& plain = one.plain[i];
    const bool last = &plain == &one.fastest();
    fmt::print("| {} | {} | {} | {} | {:.3f} | {} |\n", one.ours.name, SecondsAndRate(one.ours),
               plain.name, SecondsAndRate(plain), one.ours.rate() / plain.rate(),
               !last || one.required == 0
                   ? ""
                   : fmt::format("{:.3f}: {}", one.required, one.met() ? "met" : "NOT MET"));
  }
  std::fflush(stdout);
}

nlohmann::json ToJson(const BenchTimes& times) {
  return {{"name", times.name},
          {"bytes", times.bytes},
          {"seconds", times.seconds},
          {"median_seconds", times.median()},
          {"bytes_per_second", times.rate()},
          {"spread", times.spread()}};
}

nlohmann::json ToJson(const BenchComparison& one) {
  nlohmann::json json = ToJson(one.ours);
  json["plain"] = nlohmann::json::array();
  for (const BenchTimes& plain : one.plain) json["plain"].push_back(ToJson(plain));
  json["ratio"] = one.ratio();
  if (one.required > 0) {
    json["required"] = one.required;
    json["met"] = one.met();
  }
  return json;
}

// Runs torch.distributed.checkpoint on tensors of the same shapes in the same directory.
TorchCheckpoints AskTorch(const CkptBenchFlags& flags) {
  TorchCheckpoints torch;
  nlohmann::json shapes = nlohmann::json::array();
  for (const NamedShape& named : StateOfBytes(flags.bench.bytes)) {
    shapes.push_back({named.name, std::vector<int64_t>(named.shape.begin(), named.shape.end())});
  }
  const std::string list = flags.bench.directory + "/mnemo-bench-ckpt-shapes.json";
  FileSystem& fs = FileSystem::Posix();
  torch.status = WriteFileAtomically(fs, list, shapes.dump());
  if (!torch.status.ok()) return torch;
  const auto take = [&](const nlohmann::json& line) {
    if (!line.contains("what")) return torch.said.update(line);
    BenchTimes& times = line.at("what") == "save" ? torch.save : torch.load;
    times.bytes = line.at("bytes");
    times.seconds.push_back(line.at("seconds"));
  };
  const absl::StatusOr<std::string> script = BenchScript("ckpt/dcp_torch.py");
  std::vector<std::string> words = {"--dir",    flags.bench.directory,
                                    "--shapes", list,
                                    "--rounds", std::to_string(flags.bench.rounds),
                                    "--ranks",  std::to_string(flags.bench.ranks)};
  if (flags.bench.drop_caches) words.push_back("--drop-caches");
  torch.status =
      script.ok() ? RunPythonScript(flags.python, *script, words, take) : script.status();
  fs.Remove(list).IgnoreError();
  if (absl::IsNotFound(torch.status)) {
    torch.said["skipped"] = torch.status.message();
    torch.status = absl::OkStatus();
  }
  if (torch.said.contains("skipped")) {
    fmt::print("PyTorch: skipped: {}\n", torch.said["skipped"].get<std::string>());
  }
  return torch;
}

// The most that steps on a GPU may be slower while a save is written.
constexpr double kSlowdownAllowed = 0.02;

absl::Status TimeSteps(const CkptBenchFlags& flags, nlohmann::json& json,
                       std::vector<std::string>& missed) {
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig written, flags.train.Load());
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig config, EffectiveConfig(written, flags.train.path));
  SaveBenchOptions options = flags.saves;
  options.directory = flags.bench.directory;
  options.rounds = flags.bench.rounds;
  const int threads = ThreadsForThisThread();
  MNEMO_ASSIGN_OR_RETURN(const SaveBenchResult result, BenchSaves(config, options));
  SetThreadsForThisThread(threads);  // a trainer sets its own
  const bool asked = ComputeDevice(config.execution()) != Device();
  const auto tokens = static_cast<double>(result.tokens);
  fmt::print(
      "\n{}: {:.0f} tokens/s without a save, {:.0f} while one is written: {:.2f} % slower{}\n"
      "  a save of {:.2f} GB took {:.3f} s and held training up for {:.4f} s; {} steps beside\n",
      flags.train.path, tokens / result.quiet, tokens / result.saving, 100 * result.slowdown(),
      !asked                                 ? ""
      : result.slowdown() < kSlowdownAllowed ? " (under 2 % required: met)"
                                             : " (under 2 % required: NOT MET)",
      static_cast<double>(result.saved_bytes) * 1e-9, result.save, result.stall,
      result.saving_steps);
  json["training"] = {{"config", flags.train.path},
                      {"effective_config", config.ShortDebugString()},
                      {"tokens_per_second", tokens / result.quiet},
                      {"tokens_per_second_while_saving", tokens / result.saving},
                      {"slowdown", result.slowdown()},
                      {"stall_seconds", result.stall},
                      {"save_seconds", result.save},
                      {"saved_bytes", result.saved_bytes},
                      {"steps_while_saving", result.saving_steps}};
  if (asked && result.slowdown() >= kSlowdownAllowed) missed.push_back("steps while saving");
  return absl::OkStatus();
}

// Beside what has been measured of ours.
void Join(const TorchCheckpoints& torch, nlohmann::json& json) {
  json["pytorch"] = torch.said;
  if (!torch.status.ok()) json["pytorch"]["error"] = torch.status.message();
  for (nlohmann::json& one : json["measured"]) {
    const bool save = one["name"] == "save";
    const BenchTimes& theirs = save ? torch.save : torch.load;
    if ((!save && one["name"] != "load, digests checked") || theirs.seconds.empty()) continue;
    const double ratio = one["bytes_per_second"].get<double>() / theirs.rate();
    one["pytorch"] = ToJson(theirs);
    one["times_pytorch"] = ratio;
    fmt::print("| {} | {:.3f} s | torch.distributed.checkpoint | {} | {:.3f} | |\n",
               one["name"].get<std::string>(), one["median_seconds"].get<double>(),
               SecondsAndRate(theirs), ratio);
  }
}

absl::Status BenchCkpt(const CkptBenchFlags& flags) {
  if (flags.compare && flags.bench.device != Device()) {
    return InvalidArgument("--compare is for --device cpu: files are not written from a GPU");
  }
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.json));
  nlohmann::json json = {
      {"bench", "ckpt"},
      {"bytes", flags.bench.bytes},
      {"device", flags.bench.device == Device() ? "cpu" : "cuda"},
      {"ranks", flags.bench.ranks},
      {"caches", flags.bench.drop_caches ? "files synced, their pages dropped; drop_caches"
                                         : "files synced, their pages dropped"},
      {"measured", nlohmann::json::array()}};
  fmt::print("{:.2f} GB, ranks: {}, threads: {}, rounds: {}; caches: {}\n",
             static_cast<double>(flags.bench.bytes) * 1e-9, flags.bench.ranks,
             ThreadsForThisThread(), flags.bench.rounds, json["caches"].get<std::string>());
  fmt::print(
      "| what | median | beside | median | times its speed | required |\n"
      "|---|---|---|---|---|---|\n");
  std::fflush(stdout);
  std::vector<std::string> missed;
  MNEMO_RETURN_IF_ERROR(BenchCheckpoints(flags.bench, [&](const BenchComparison& one) {
    PrintComparison(one);
    json["measured"].push_back(ToJson(one));
    if (!one.met()) missed.push_back(one.ours.name);
  }));
  if (!flags.train.path.empty()) MNEMO_RETURN_IF_ERROR(TimeSteps(flags, json, missed));
  absl::Status torch_status;
  if (flags.compare) {
    const TorchCheckpoints torch = AskTorch(flags);
    Join(torch, json);
    torch_status = torch.status;
  }
  if (!missed.empty()) fmt::print("not met: {}\n", fmt::join(missed, "; "));
  MNEMO_RETURN_IF_ERROR(WriteBenchJson(flags.json, std::move(json)));
  return torch_status;
}

}  // namespace

void AddBenchCkpt(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<CkptBenchFlags>();
  CLI::App* command = bench.add_subcommand(
      "ckpt",
      "Speed of checkpoints with caches cold: saves and loads beside plain files of the same "
      "bytes, "
      "the copy that training waits for beside a bare one, digests beside memory.");
  command
      ->add_option_function<std::string>(
          "--device",
          [flags](const std::string& name) {
            if (name == "cuda") flags->bench.device = {DeviceType::kCuda, 0};
          },
          "Of the state: cpu, or cuda, where only snapshots are timed")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->default_str("cpu");
  command->add_option("--config", flags->train.path,
                      "Time this configuration's steps beside saves too, on random tokens");
  command->add_option("--set", flags->train.overrides, "Changes of it: FIELD=VALUE")
      ->allow_extra_args(false);
  command->add_option("--steps", flags->saves.steps, "Of it, without a save, in each round")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--dir", flags->bench.directory, "Directory on the disk to be measured")
      ->required();
  command->add_option("--bytes", flags->bench.bytes, "Of the state: a number, or one with MB or GB")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(int64_t{1} << 16, int64_t{1} << 44))
      ->default_str("4GiB");
  command->add_option("--ranks", flags->bench.ranks, "Threads that save and load, a file each")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--rounds", flags->bench.rounds, "Times that all is done; medians count")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--drop-caches", flags->bench.drop_caches,
                    "Drop the caches of the whole machine too (root only)");
  command->add_flag("--compare", flags->compare, "Beside torch.distributed.checkpoint");
  command->add_option("--python", flags->python, "The Python that has PyTorch")
      ->capture_default_str();
  command->add_option("--json", flags->json, "File to write the results to as well");
  command->callback([&chosen, flags] { chosen = [flags] { return BenchCkpt(*flags); }; });
}

}  // namespace mnemo
