#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "src/cli/bench_command.h"
#include "src/core/status.h"
#include "src/core/thread_pool.h"
#include "src/job/gemm_ceiling.h"
#include "src/job/op_bench.h"
#include "src/job/timing.h"

namespace mnemo {
namespace {

struct OpFlags {
  DType dtype = DType::kF32;
  int threads = 0;
  std::string json;
};

absl::Status RunOpBench(const OpFlags& flags) {
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.json));
  if (flags.threads > 0) SetThreadsForThisThread(flags.threads);
  const DType dtype = flags.dtype;
  const double products = MeasureGemmCeiling(dtype, {}), copies = MeasureCopyBandwidth();
  fmt::print("{}, {} threads; large products reach {:.1f} GFLOP/s, large copies {:.1f} GB/s\n",
             Name(dtype), ThreadsForThisThread(), products * 1e-9, copies * 1e-9);
  nlohmann::json json = {{"bench", "ops"},
                         {"dtype", Name(dtype)},
                         {"gemm_peak_flops", products},
                         {"copy_bytes_per_second", copies},
                         {"ops", nlohmann::json::array()}};
  BenchOps(dtype, [&](const OpTime& op) {
    const double peak = op.product ? products : copies;
    fmt::print("{:<48} {:>10.1f} us {:>8.1f} {:<8} {:>5.0f}%\n", op.name, op.seconds * 1e6,
               op.rate() * 1e-9, op.product ? "GFLOP/s" : "GB/s", 100 * op.rate() / peak);
    std::fflush(stdout);
    json["ops"].push_back({{"op", op.name},
                           {"seconds", op.seconds},
                           {op.product ? "flops" : "bytes_per_second", op.rate()}});
  });
  return WriteBenchJson(flags.json, std::move(json));
}

}  // namespace

void AddBenchOps(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<OpFlags>();
  CLI::App* command = bench.add_subcommand(
      "ops",
      "Speed of the CPU's kernels beside that of large products and copies. Small tensors stay "
      "in caches, so that a kernel may be above 100%.");
  AddDTypeFlag(*command, flags->dtype);
  command->add_option("--threads", flags->threads, "Threads; 0: all cores")->capture_default_str();
  command->add_option("--json", flags->json, "File to write the results to as well");
  command->callback([&chosen, flags] { chosen = [flags] { return RunOpBench(*flags); }; });
}

}  // namespace mnemo
