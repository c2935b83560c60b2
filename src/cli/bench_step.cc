#include <fmt/format.h>

#include <memory>

#include "src/cli/bench_command.h"
#include "src/cli/config_flags.h"
#include "src/job/gemm_ceiling.h"
#include "src/job/step_bench.h"
#include "src/model/config_check.h"
#include "src/model/execution.h"

namespace mnemo {
namespace {

struct StepFlags {
  ConfigFlags config;
  StepBenchOptions options;
  double peak_tflops = 0;
  std::string json;
};

// FLOP/s that shares are of: given, 0 if not, and what products reach in this process.
struct Peaks {
  double given = 0, measured = 0;
};

void Print(const v1::RunConfig& config, const StepBenchResult& result, const Peaks& peaks) {
  fmt::print("{} parameters, {} tokens a step, {} on {}\n", result.parameters, result.tokens,
             Name(ComputeDType(config.execution())),
             config.execution().device() == v1::CUDA ? "CUDA" : "CPU");
  fmt::print("step       {:>10.2f} ms   {:>10.0f} tokens/s   {:.1f} TFLOP/s\n", result.median * 1e3,
             result.tokens_per_second(), result.flops() * 1e-12);
  const auto share = [&](double peak, const char* of) {
    if (peak > 0) {
      fmt::print("           {:>10.1f} % of {}, {:.1f} TFLOP/s\n", 100 * result.flops() / peak, of,
                 peak * 1e-12);
    }
  };
  share(peaks.measured, "what large products reach here");
  share(peaks.given, "--peak-tflops");
  for (const auto& [name, seconds] : result.phases) {
    fmt::print("  {:<18} {:>8.2f} ms   {:>4.1f} %\n", name, seconds * 1e3,
               100 * seconds / result.median);
  }
  const auto peak_bytes = static_cast<double>(result.peak_bytes);
  const auto planned_bytes = static_cast<double>(result.planned_bytes);
  fmt::print("tensors    {:>10.1f} MiB at most, {:.1f} planned ({:+.1f} %)\n",
             peak_bytes / (1 << 20), planned_bytes / (1 << 20),
             100 * (planned_bytes / peak_bytes - 1));
  for (const v1::FusedOpCount& op : result.last.fused()) {
    fmt::print("  {:<18} {} by kernel, {} composed, {} refused\n", op.name(), op.kernel(),
               op.composed(), op.fallback());
  }
}

nlohmann::json ToJson(const StepFlags& flags, const v1::RunConfig& config,
                      const StepBenchResult& result, const Peaks& peaks) {
  nlohmann::json json = {{"bench", "step"},
                         {"config", flags.config.path},
                         {"effective_config", config.ShortDebugString()},
                         {"parameters", result.parameters},
                         {"tokens", result.tokens},
                         {"seconds", result.seconds},
                         {"median_seconds", result.median},
                         {"tokens_per_second", result.tokens_per_second()},
                         {"model_flops_per_second", result.flops()},
                         {"peak_tensor_bytes", result.peak_bytes},
                         {"planned_tensor_bytes", result.planned_bytes},
                         {"loss", result.last.loss()}};
  if (peaks.measured > 0) {
    json["gemm_peak_flops"] = peaks.measured;
    json["share_of_gemm_peak"] = result.flops() / peaks.measured;
  }
  if (peaks.given > 0) {
    json["peak_flops"] = peaks.given;
    json["share_of_peak"] = result.flops() / peaks.given;
  }
  for (const auto& [name, seconds] : result.phases) json["phases"][name] = seconds;
  for (const v1::FusedOpCount& op : result.last.fused()) {
    json["fused"][op.name()] = {
        {"kernel", op.kernel()}, {"composed", op.composed()}, {"fallback", op.fallback()}};
  }
  return json;
}

absl::Status BenchTrainingStep(const StepFlags& flags) {
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.json));
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig written, flags.config.Load());
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig config, EffectiveConfig(written, flags.config.path));
  MNEMO_ASSIGN_OR_RETURN(const StepBenchResult result, BenchStep(config, flags.options));
  const Peaks peaks = {
      flags.peak_tflops * 1e12,
      MeasureGemmCeiling(ComputeDType(config.execution()), ComputeDevice(config.execution()))};
  Print(config, result, peaks);
  return WriteBenchJson(flags.json, ToJson(flags, config, result, peaks));
}

}  // namespace

void AddBenchStep(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<StepFlags>();
  CLI::App* command = bench.add_subcommand(
      "step", "Speed of a configuration's training step on random tokens; reads no data.");
  flags->config.AddConfigTo(*command);
  command->add_option("--timed", flags->options.steps, "Timed steps; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--warmup", flags->options.warmup, "Steps before these")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--phases", flags->options.phases,
                    "Time the phases of a step too, waiting for the device after each");
  command
      ->add_option("--peak-tflops", flags->peak_tflops,
                   "By data sheet, to say the share of it besides that of what products reach")
      ->check(CLI::PositiveNumber);
  command->add_option("--json", flags->json, "File to write the results to as well");
  command->callback([&chosen, flags] { chosen = [flags] { return BenchTrainingStep(*flags); }; });
}

}  // namespace mnemo
