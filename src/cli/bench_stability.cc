#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "src/cli/bench_command.h"
#include "src/cli/bench_text.h"
#include "src/core/config_text.h"
#include "src/core/status.h"
#include "src/model/config_check.h"
#include "src/model/memory_trace.h"
#include "src/model/saved_model.h"
#include "src/model/stability_inputs.h"

namespace mnemo {
namespace {

struct StabilityFlags {
  std::vector<std::string> configs, overrides, shards;
  std::string model, json;
  int64_t tokens = 100'000, heads = 3;
  uint64_t seed = 1;
};

// A configuration whose memory has not come before.
struct NamedSpec {
  std::string name;
  ModelSpec spec;
  std::vector<std::string> same;  // other configurations with this memory
};

// JSON has no infinity.
nlohmann::json Number(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json("inf");
}

// Rows of one table and the JSON beside them.
class Report {
 public:
  // `row` names the head; `repeated_key` is the largest state with one key for ever, or negative if
  // that was not run.
  void Add(const std::string& row, const HeadGrowth& head, double repeated_key) {
    const bool finite = std::isfinite(repeated_key);
    const bool pass = head.Passes() && finite;
    passed_ = passed_ && pass;
    fmt::print("  {:<28} {:>10.3g} {:>9} {:>10.3g} {:>9} {:>10.3g} {:>11} {:>5}\n", row,
               head.adjoint, head.adjoint_token, head.perturbation, head.perturbation_token,
               head.largest_state / head.first_state,
               repeated_key < 0 ? "-" : fmt::format("{:.3g}", repeated_key / head.first_state),
               pass ? "ok" : "FAIL");
    std::fflush(stdout);
    nlohmann::json entry = {{"head", row},
                            {"adjoint_growth", Number(head.adjoint)},
                            {"adjoint_token", head.adjoint_token},
                            {"perturbation_growth", Number(head.perturbation)},
                            {"perturbation_token", head.perturbation_token},
                            {"first_adjoint", Number(head.first_adjoint)},
                            {"last_adjoint", Number(head.last_adjoint)},
                            {"first_state", Number(head.first_state)},
                            {"largest_state", Number(head.largest_state)},
                            {"pass", pass}};
    if (repeated_key >= 0) entry["largest_state_repeated_key"] = Number(repeated_key);
    table_["heads"].push_back(entry);
  }

  void Begin(const std::string& title, nlohmann::json about) {
    fmt::print("{}\n  {:<28} {:>10} {:>9} {:>10} {:>9} {:>10} {:>11}\n", title, "head", "adjoint",
               "at token", "perturb.", "at token", "state", "repeated");
    table_ = std::move(about);
    table_["heads"] = nlohmann::json::array();
    begin_ = Clock::now();
  }
  void End() {
    const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
    fmt::print("  {:.1f} s\n", seconds);
    table_["seconds"] = seconds;
    tables_.push_back(std::move(table_));
  }

  absl::Status Finish(const StabilityFlags& flags) const {
    MNEMO_RETURN_IF_ERROR(WriteBenchJson(flags.json, {{"bench", "stability"},
                                                      {"tokens", flags.tokens},
                                                      {"seed", flags.seed},
                                                      {"limit", kGrowthLimit},
                                                      {"pass", passed_},
                                                      {"memories", tables_}}));
    if (passed_) {
      fmt::print("stability: ok, no growth above {:g}\n", kGrowthLimit);
      return absl::OkStatus();
    }
    return FailedPrecondition(
        "stability: a growth is above {:g}, or a state overflowed; less forgetting (gates."
        "alpha_first), a smaller gates.theta_max, layer_norm or a clamp may help: docs/numerics.md",
        kGrowthLimit);
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool passed_ = true;
  nlohmann::json table_, tables_ = nlohmann::json::array();
  Clock::time_point begin_;
};

absl::StatusOr<std::vector<NamedSpec>> LoadMemories(const StabilityFlags& flags) {
  std::vector<NamedSpec> list;
  for (const std::string& path : flags.configs) {
    v1::RunConfig config;
    MNEMO_RETURN_IF_ERROR(LoadConfigFile(FileSystem::Posix(), path, &config));
    MNEMO_RETURN_IF_ERROR(ApplyOverrides(flags.overrides, &config));
    MNEMO_ASSIGN_OR_RETURN(config, EffectiveConfig(config, path));
    // The vocabulary may be the tokenizer's; the memory does not depend on it.
    if (config.model().vocabulary() == 0) config.mutable_model()->set_vocabulary(1);
    const ModelSpec spec = MakeSpec(config.model());
    if (!spec.has_memory()) continue;
    const auto same = std::find_if(list.begin(), list.end(), [&](const NamedSpec& other) {
      return SameMemory(spec, other.spec);
    });
    if (same != list.end()) {
      same->same.push_back(path);
    } else {
      list.push_back({path, spec, {}});
    }
  }
  if (list.empty()) return InvalidArgument("none of these configurations has a memory");
  return list;
}

absl::Status BenchFirstWeights(const StabilityFlags& flags) {
  MNEMO_ASSIGN_OR_RETURN(const std::vector<NamedSpec> memories, LoadMemories(flags));
  fmt::print("random inputs at first weights, {} tokens, f64\n", flags.tokens);
  Report report;
  for (const NamedSpec& memory : memories) {
    const ModelSpec& spec = memory.spec;
    const int64_t most = flags.heads == 0 ? spec.heads : flags.heads;
    const std::vector<int64_t> heads = DistinctHeads(spec, most);
    std::string title = memory.name;
    if (!memory.same.empty()) title += fmt::format(" (and {} more)", memory.same.size());
    report.Begin(
        title + ": " + DescribeMemory(spec),
        {{"config", memory.name}, {"same", memory.same}, {"memory", DescribeMemory(spec)}});
    const auto run = [&](MemoryInputs inputs) {
      return FirstMemoryRun(spec, heads, inputs, flags.tokens, flags.seed);
    };
    const std::vector<HeadGrowth> growth = MeasureGrowth(run(MemoryInputs::kRandom), flags.seed);
    const std::vector<double> repeated = LargestStates(run(MemoryInputs::kRepeatedKey));
    const std::vector<double> alphas = InitialAlphas(spec);
    for (size_t i = 0; i < heads.size(); ++i) {
      std::string row = fmt::format("{} of {}", heads[i], spec.heads);
      if (spec.rule.forgetting != Forgetting::kNever) {
        row += fmt::format(", alpha {:.3g}", alphas[heads[i]]);
      }
      report.Add(row, growth[i], repeated[i]);
    }
    report.End();
  }
  return report.Finish(flags);
}

absl::Status BenchTrained(const StabilityFlags& flags) {
  const std::vector<std::string> overrides = {"execution.precision=F64", "execution.device=CPU"};
  MNEMO_ASSIGN_OR_RETURN(const SavedModel model,
                         LoadModel(FileSystem::Posix(), flags.model, overrides));
  MNEMO_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                         ReadHeldOutText(flags.shards, model, flags.tokens));
  fmt::print("{}: {} tokens of text as one sequence, f64\n{}\n", flags.model, flags.tokens,
             DescribeMemory(model.spec));
  Report report;
  MNEMO_RETURN_IF_ERROR(
      TraceMemories(model.spec, model.parameters, tokens, [&](int layer, const MemoryRun& run) {
        report.Begin(fmt::format("layer {}", layer), {{"layer", layer}});
        const std::vector<HeadGrowth> growth = MeasureGrowth(run, flags.seed);
        for (size_t h = 0; h < growth.size(); ++h) {
          report.Add(fmt::format("layer {}, head {}", layer, h), growth[h], -1);
        }
        report.End();
        return absl::OkStatus();
      }));
  return report.Finish(flags);
}

}  // namespace

void AddBenchStability(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<StabilityFlags>();
  CLI::App* command = bench.add_subcommand(
      "stability",
      "Whether the memory stays finite over a long sequence: growth of gradients and of "
      "perturbations per head, in f64; fails above 100. At the first weights of --config, or of "
      "a trained --model on text.");
  CLI::Option* config = command->add_option(
      "--config", flags->configs, "Run configurations (text format); equal memories run once");
  command->add_option("--set", flags->overrides, "Override a field of all of them: path=value")
      ->needs(config);
  command
      ->add_option("--heads", flags->heads,
                   "With --config: heads of each, evenly spaced in initial alpha; 0: all")
      ->needs(config)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  CLI::Option* shards =
      command->add_option("--shards", flags->shards, "Text for --model: shards or directories");
  CLI::Option* model =
      command->add_option("--model", flags->model, "Model directory; all of its layers and heads")
          ->needs(shards);
  shards->needs(model);
  config->excludes(model);
  command->add_option("--tokens", flags->tokens, "Length of the sequence in tokens")
      ->check(CLI::Range(int64_t{2}, int64_t{100'000'000}))
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "Of weights, inputs, projection and perturbation")
      ->capture_default_str();
  command->add_option("--json", flags->json, "File to write the results to as well");
  command->callback([&chosen, flags] {
    if (flags->configs.empty() && flags->model.empty()) {
      throw CLI::ValidationError("give --config FILE or --model DIR");
    }
    chosen = [flags]() -> absl::Status {
      MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags->json));
      return flags->model.empty() ? BenchFirstWeights(*flags) : BenchTrained(*flags);
    };
  });
}

}  // namespace mnemo
