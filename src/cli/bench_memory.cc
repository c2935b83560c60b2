#include <fmt/format.h>

#include <memory>
#include <vector>

#include "src/cli/bench_command.h"
#include "src/cli/bench_memory_gpu.h"
#include "src/core/status.h"
#include "src/core/thread_pool.h"
#include "src/job/gemm_ceiling.h"
#include "src/job/memory_bench.h"

namespace mnemo {
namespace {

struct MemoryFlags {
  MemoryBenchOptions bench;
  int64_t expansion = 4;
  DType dtype = DType::kF32;
  bool no_momentum = false, no_layer_norm = false, gelu = false;
  int threads = 0;
  bool cuda = false, one_shape = false;
  std::string for_cpu;  // an option given that a GPU's bench does not have
  GpuMemoryBench gpu;
  std::string json;
};

MemoryBenchOptions Resolve(const MemoryFlags& flags) {
  MemoryBenchOptions options = flags.bench;
  MemoryRule& rule = options.rule;
  rule.hidden = flags.expansion * rule.head_dim;
  rule.momentum = !flags.no_momentum;
  rule.layer_norm = rule.residual = !flags.no_layer_norm;
  rule.activation = flags.gelu ? MemoryActivation::kGelu : MemoryActivation::kSilu;
  options.dtype = flags.dtype;
  return options;
}

absl::Status BenchOnGpu(const MemoryFlags& flags) {
  GpuMemoryBench bench = flags.gpu;
  bench.json = flags.json;
  if (flags.one_shape) {
    const MemoryBenchOptions options = Resolve(flags);
    bench.cases = {{options.rule, options.batch, options.heads, options.tokens}};
  } else {
    bench.cases = LargeMemoryScans();
  }
  return BenchMemoryOnGpu(bench);
}

absl::Status BenchMemoryScan(const MemoryFlags& flags) {
  if (flags.cuda && !flags.for_cpu.empty()) {
    return InvalidArgument(
        "{} is for --device cpu alone: on a GPU the scan takes bf16 and is timed until that is "
        "sure",
        flags.for_cpu);
  }
  if (flags.cuda) return BenchOnGpu(flags);
  if (flags.gpu.compare || !flags.gpu.plot.empty()) {
    return InvalidArgument("--compare and --plot need --device cuda");
  }
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.json));
  if (flags.threads > 0) SetThreadsForThisThread(flags.threads);
  const MemoryBenchOptions options = Resolve(flags);
  const MemoryRule& rule = options.rule;
  const double peak = MeasureGemmCeiling(options.dtype, {});
  const MemoryBenchResult result = BenchMemory(options);
  fmt::print(
      "memory scan: depth {}, hidden {}, chunk {}, {} x {} heads of {}, {} tokens, {}, {} threads\n"
      "matrix products reach {:.1f} GFLOP/s\n{:<20} {:>10} {:>12} {:>10} {:>9}\n",
      rule.depth, rule.depth > 1 ? rule.hidden : 0, rule.chunk, options.batch, options.heads,
      rule.head_dim, options.tokens, Name(options.dtype), ThreadsForThisThread(), peak * 1e-9, "",
      "seconds", "tokens/s", "GFLOP/s", "of peak");
  nlohmann::json json = {
      {"bench", "memory"},         {"depth", rule.depth},      {"hidden", rule.hidden},
      {"chunk", rule.chunk},       {"batch", options.batch},   {"heads", options.heads},
      {"head_dim", rule.head_dim}, {"tokens", options.tokens}, {"dtype", Name(options.dtype)},
      {"gemm_peak_flops", peak}};
  const auto row = [&](const char* name, double seconds, double flops) {
    const double tokens = static_cast<double>(result.tokens) / seconds, rate = flops / seconds;
    fmt::print("{:<20} {:>10.4f} {:>12.0f} {:>10.1f} {:>8.0f}%\n", name, seconds, tokens,
               rate * 1e-9, 100 * rate / peak);
    json[name] = {{"seconds", seconds}, {"tokens_per_second", tokens}, {"flops", rate}};
  };
  row("forward", result.forward, result.forward_flops);
  row("forward+backward", result.training, result.training_flops);
  return WriteBenchJson(flags.json, std::move(json));
}

// Declares what describes the shape, and returns it.
std::vector<CLI::Option*> AddShape(CLI::App& command, MemoryFlags& flags) {
  std::vector<CLI::Option*> shape;
  const auto number = [&](const char* name, auto& value, const char* help) {
    CLI::Option* option = command.add_option(name, value, help);
    shape.push_back(option->check(CLI::PositiveNumber)->capture_default_str());
  };
  number("--batch", flags.bench.batch, "Sequences");
  number("--heads", flags.bench.heads, "Heads");
  number("--head-dim", flags.bench.rule.head_dim, "Width of a head");
  shape.push_back(
      command.add_option("--depth", flags.bench.rule.depth, "Layers of the memory network")
          ->check(CLI::Range(1, 4))
          ->capture_default_str());
  number("--expansion", flags.expansion, "Hidden width over the width of a head");
  number("--chunk", flags.bench.rule.chunk, "Tokens of a chunk");
  number("--tokens", flags.bench.tokens, "Tokens of a sequence");
  const auto flag = [&](const char* name, bool& value, const char* help) {
    shape.push_back(command.add_flag(name, value, help));
  };
  flag("--no-momentum", flags.no_momentum, "Leave S out");
  flag("--no-layer-norm", flags.no_layer_norm, "No layer norm and no residual");
  flag("--gelu", flags.gelu, "GELU in place of SiLU");
  return shape;
}

}  // namespace

void AddBenchMemory(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<MemoryFlags>();
  CLI::App* command = bench.add_subcommand(
      "memory",
      "Speed of the memory scan: forward, and forward and backward. On a GPU, in bf16, several "
      "shapes beside what large products and copies reach, or one that options describe.");
  command
      ->add_option_function<std::string>(
          "--device", [flags](const std::string& name) { flags->cuda = name == "cuda"; },
          "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->default_str("cpu");
  const std::vector<CLI::Option*> shape = AddShape(*command, *flags);
  command
      ->add_option("--iterations", flags->bench.iterations,
                   "Timed runs on the CPU; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  AddDTypeFlag(*command, flags->dtype);
  command->add_option("--threads", flags->threads, "Threads; 0: all cores")->capture_default_str();
  command->add_flag(
      "--compare", flags->gpu.compare,
      "On a GPU: beside PyTorch (the chunk form, compiled) and FLA (a linear memory)");
  command->add_option("--python", flags->gpu.python, "The Python that has these")
      ->capture_default_str();
  command->add_option("--json", flags->json, "File to write the results to as well");
  command->add_option("--plot", flags->gpu.plot, "SVG file to draw a GPU's roofline in");
  command->callback([&chosen, flags, shape, command] {
    for (const CLI::Option* option : shape) flags->one_shape |= option->count() > 0;
    for (const char* name : {"--iterations", "--dtype", "--threads"}) {
      if (command->count(name) > 0) flags->for_cpu = name;
    }
    chosen = [flags] { return BenchMemoryScan(*flags); };
  });
}

}  // namespace mnemo
