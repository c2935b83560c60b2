#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "src/cli/bench_command.h"
#include "src/cli/bench_text.h"
#include "src/core/status.h"
#include "src/model/memory_trace.h"
#include "src/model/scan_error.h"
#include "src/model/stability_inputs.h"

namespace mnemo {
namespace {

// Of one chunk. The gradient of alpha is the difference of large numbers.
constexpr double kLimit = 1e-2, kAlphaLimit = 2e-2;

struct AccuracyFlags {
  std::vector<std::string> shards;
  std::string model, json;
  int64_t tokens = 8192, places = 3;
  bool cuda = false;
  uint64_t seed = 1;
};

bool IsOfAlpha(const ScanError& error) { return error.name == "d alpha"; }

// The largest of those that `which` chooses; without a name if there are none.
template <typename Which>
ScanError Largest(const std::vector<ScanError>& errors, Which which) {
  ScanError largest;
  for (const ScanError& error : errors) {
    if (which(error) && (largest.name.empty() || error.relative > largest.relative)) {
      largest = error;
    }
  }
  return largest;
}

// A row for each scan that was compared, and the JSON beside it.
class Table {
 public:
  Table() {
    fmt::print("  {:<34} {:>9} {:>18} {:>22} {:>9} {:>8}\n", "tokens", "y", "carry, largest",
               "gradient, largest", "d alpha", "kernel");
  }

  // `limited`: of one chunk, and held to the limits.
  void Add(int layer, int64_t begin, int64_t end, const ScanErrors& errors, bool limited) {
    const auto all = [](const ScanError&) { return true; };
    const auto others = [](const ScanError& error) { return !IsOfAlpha(error); };
    const ScanError carry = Largest(errors.carry, all),
                    gradient = Largest(errors.gradients, others),
                    alpha = Largest(errors.gradients, IsOfAlpha);
    const double most = std::max({errors.values[0].relative, carry.relative, gradient.relative});
    const bool pass = !limited || (most <= kLimit && alpha.relative <= kAlphaLimit);
    passed_ = passed_ && pass;
    const auto named = [](const ScanError& error) {
      return fmt::format("{:.2e} {}", error.relative, error.name);
    };
    fmt::print("  {:<34} {:>9.2e} {:>18} {:>22} {:>9} {:>8}{}\n",
               fmt::format("layer {}, {} to {}", layer, begin, end), errors.values[0].relative,
               named(carry), named(gradient),
               alpha.name.empty() ? "-" : fmt::format("{:.2e}", alpha.relative),
               errors.kernel ? "yes" : "composed", pass ? "" : "  FAIL");
    nlohmann::json entry = {{"layer", layer},          {"begin", begin},     {"end", end},
                            {"kernel", errors.kernel}, {"limited", limited}, {"pass", pass}};
    for (const auto* list : {&errors.values, &errors.carry, &errors.gradients}) {
      for (const ScanError& error : *list) {
        // JSON has no infinity.
        entry["errors"][error.name] =
            std::isfinite(error.relative) ? nlohmann::json(error.relative) : nlohmann::json("inf");
      }
    }
    rows_.push_back(entry);
  }

  bool passed() const { return passed_; }
  const nlohmann::json& rows() const { return rows_; }

 private:
  bool passed_ = true;
  nlohmann::json rows_ = nlohmann::json::array();
};

absl::Status BenchAccuracy(const AccuracyFlags& flags) {
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.json));
  const std::vector<std::string> overrides = {"execution.precision=F64", "execution.device=CPU"};
  MNEMO_ASSIGN_OR_RETURN(const SavedModel model,
                         LoadModel(FileSystem::Posix(), flags.model, overrides));
  const int64_t chunk = model.spec.has_memory() ? model.spec.rule.chunk : 1;
  const int64_t chunks = flags.tokens / chunk;
  if (chunks < 1) {
    return InvalidArgument("--tokens {} is less than the memory's chunk of {}", flags.tokens,
                           chunk);
  }
  MNEMO_ASSIGN_OR_RETURN(const std::vector<int32_t> text,
                         ReadHeldOutText(flags.shards, model, chunks * chunk));
  const Device device{flags.cuda ? DeviceType::kCuda : DeviceType::kCpu};
  Tensor::Zeros({1}, DType::kF32, device);  // that is not there: an error before hours of work
  std::vector<int64_t> places;
  for (int64_t i = 0; i < std::min(flags.places, chunks); ++i) {
    places.push_back((flags.places == 1 ? 0 : i * (chunks - 1) / (flags.places - 1)) * chunk);
  }
  places.erase(std::unique(places.begin(), places.end()), places.end());
  fmt::print("{}: bf16 on {} against f64, relative, L2 over all heads\n{}\n", flags.model,
             flags.cuda ? "cuda:0" : "the CPU", DescribeMemory(model.spec));
  Table table;
  const absl::Status traced = TraceMemories(
      model.spec, model.parameters, text, [&](int layer, const MemoryRun& run) -> absl::Status {
        const std::vector<MemoryState> states = StatesBefore(run, places);
        for (size_t i = 0; i < places.size(); ++i) {
          const int64_t end = places[i] + chunk;
          table.Add(layer, places[i], end,
                    MeasureScanErrors(run, states[i], places[i], end, device, flags.seed), true);
        }
        table.Add(layer, 0, run.tokens,
                  MeasureScanErrors(run, states[0], 0, run.tokens, device, flags.seed), false);
        return absl::OkStatus();
      });
  MNEMO_RETURN_IF_ERROR(traced);
  MNEMO_RETURN_IF_ERROR(WriteBenchJson(flags.json, {{"bench", "accuracy"},
                                                    {"model", flags.model},
                                                    {"memory", DescribeMemory(model.spec)},
                                                    {"device", flags.cuda ? "cuda:0" : "CPU"},
                                                    {"limit", kLimit},
                                                    {"limit_alpha", kAlphaLimit},
                                                    {"passed", table.passed()},
                                                    {"scans", table.rows()}}));
  if (table.passed()) {
    fmt::print("accuracy: ok, one chunk within {:g}, gradient of alpha within {:g}\n", kLimit,
               kAlphaLimit);
    return absl::OkStatus();
  }
  return FailedPrecondition("accuracy: an error of one chunk is above {:g} ({:g} for alpha)",
                            kLimit, kAlphaLimit);
}

}  // namespace

void AddBenchAccuracy(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<AccuracyFlags>();
  CLI::App* command = bench.add_subcommand(
      "accuracy",
      "How far a trained model's memories in bf16 are from f64 on text: outputs, carries and "
      "gradients of single chunks, from the states that the text has led to, and of all tokens at "
      "once. Fails if one chunk's are above 1e-2 (2e-2 for alpha's gradient).");
  command->add_option("--model", flags->model, "Model directory, checkpoint or run; all its layers")
      ->required();
  command->add_option("--shards", flags->shards, "Text: shards or directories")->required();
  command->add_option("--tokens", flags->tokens, "Length of the sequence in tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{10'000'000}))
      ->capture_default_str();
  command->add_option("--places", flags->places, "Single chunks of each layer, evenly spaced")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--device", [flags](const std::string& name) { flags->cuda = name == "cuda"; },
          "cpu or cuda, where bf16 is computed; f64 is computed on the CPU")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->default_str("cpu");
  command->add_option("--seed", flags->seed, "Of the adjoints")->capture_default_str();
  command->add_option("--json", flags->json, "File to write the results to as well");
  command->callback([&chosen, flags] { chosen = [flags] { return BenchAccuracy(*flags); }; });
}

}  // namespace mnemo
