#include "src/cli/bench_memory_gpu.h"

#include <fmt/format.h>

#include <cstdio>
#include <map>
#include <utility>

#include "src/cli/bench_command.h"
#include "src/cli/python_script.h"
#include "src/core/file_system.h"
#include "src/core/status.h"
#include "src/job/gemm_ceiling.h"
#include "src/job/roofline_plot.h"
#include "src/job/timing.h"
#include "src/model/door.h"

namespace mnemo {
namespace {

constexpr Device kGpu{DeviceType::kCuda};
constexpr char kForward[] = "forward", kBoth[] = "forward+backward";
// The same with a tape that is kept: the backward pass computes states and reads again.
constexpr char kApart[] = "forward, later backward";

// Of one shape: a pass without and one with its gradient.
struct Pass {
  double seconds, flops, bytes;
};

struct Measured {
  MemoryScanCase scan;
  std::map<std::string, Pass> passes;
  bool composed = false;  // no kernel of ours ran
};

// Another program's side: tokens a second by shape and pass.
struct Rival {
  std::string key, title, script;
  std::map<std::string, std::map<std::string, double>> rates{};
  nlohmann::json said = nlohmann::json::object();  // versions, or why it was skipped
  absl::Status status{};

  double Rate(const std::string& shape, const std::string& pass) const {
    const auto found = rates.find(shape);
    if (found == rates.end() || found->second.count(pass) == 0) return 0;
    return found->second.at(pass);
  }
};

double Tokens(const MemoryScanCase& scan) { return static_cast<double>(scan.batch * scan.tokens); }

nlohmann::json ToJson(const MemoryScanCase& scan) {
  const MemoryRule& rule = scan.rule;
  return {{"shape", Name(scan)},
          {"depth", rule.depth},
          {"hidden", rule.depth > 1 ? rule.hidden : 0},
          {"chunk", rule.chunk},
          {"batch", scan.batch},
          {"tokens", scan.tokens},
          {"heads", scan.heads},
          {"head_dim", rule.head_dim},
          {"layer_norm", rule.layer_norm},
          {"momentum", rule.momentum},
          {"activation", rule.activation == MemoryActivation::kGelu ? "gelu" : "silu"}};
}

Measured Measure(const MemoryScanCase& scan, Roofline& roofline) {
  Measured result{scan, {}};
  std::vector<OpTime> ops;
  const ReportOp report = [&](const OpTime& op) { ops.push_back(op); };
  OpTimer timer(kGpu, "", report);
  TimeMemoryScan(Name(scan), scan, KernelWork(scan), timer);
  const OpTime &forward = ops.at(0), &backward = ops.at(1), &at_once = ops.at(2);
  result.passes[kForward] = {forward.seconds, forward.flops, forward.bytes};
  result.passes[kBoth] = {at_once.seconds, at_once.flops, at_once.bytes};
  result.passes[kApart] = {forward.seconds + backward.seconds, forward.flops + backward.flops,
                           forward.bytes + backward.bytes};
  result.composed = forward.composed;
  roofline.ops.insert(roofline.ops.end(), ops.begin(), ops.end());
  return result;
}

void Ask(Rival& rival, const GpuMemoryBench& options) {
  nlohmann::json cases = nlohmann::json::array();
  for (const MemoryScanCase& scan : options.cases) cases.push_back(ToJson(scan));
  const auto take = [&](const nlohmann::json& line) {
    if (!line.contains("shape")) return rival.said.update(line);
    for (const char* pass : {kForward, kBoth}) {
      if (line.contains(pass)) rival.rates[line.at("shape")][pass] = line.at(pass);
    }
  };
  const absl::StatusOr<std::string> script = BenchScript(rival.script);
  rival.status = script.ok()
                     ? RunPythonScript(options.python, *script, {"--cases", cases.dump()}, take)
                     : script.status();
  if (absl::IsNotFound(rival.status)) {
    rival.said["skipped"] = rival.status.message();
    rival.status = absl::OkStatus();
  }
  if (rival.said.contains("skipped")) {
    fmt::print("{}: skipped: {}\n", rival.title, rival.said["skipped"].get<std::string>());
  }
}

std::string MillionsOrNothing(double rate) {
  return rate > 0 ? fmt::format("{:.3g}", rate * 1e-6) : std::string();
}

void PrintTable(const std::vector<Measured>& all, const std::vector<Rival>& rivals,
                const Ceilings& ceilings) {
  fmt::print("\n| shape | pass | M tokens/s | TFLOP/s | of products | of bandwidth |");
  for (const Rival& rival : rivals) fmt::print(" {} | times that |", rival.title);
  fmt::print("\n|---|---|---|---|---|---|");
  for (size_t i = 0; i < rivals.size(); ++i) fmt::print("---|---|");
  fmt::print("\n");
  for (const Measured& one : all) {
    for (const char* name : {kForward, kBoth, kApart}) {
      const Pass& pass = one.passes.at(name);
      const double rate = Tokens(one.scan) / pass.seconds, flops = pass.flops / pass.seconds;
      fmt::print("| {}{} | {} | {} | {:.1f} | {:.1f}% | {:.0f}% |", Name(one.scan),
                 one.composed ? " (composed)" : "", name, MillionsOrNothing(rate), flops * 1e-12,
                 100 * flops / ceilings.flops, 100 * pass.bytes / pass.seconds / ceilings.bytes);
      for (const Rival& rival : rivals) {
        const double theirs = rival.Rate(Name(one.scan), name);
        fmt::print(" {} | {} |", MillionsOrNothing(theirs),
                   theirs > 0 ? fmt::format("{:.3g}", rate / theirs) : std::string());
      }
      fmt::print("\n");
    }
  }
  std::fflush(stdout);
}

nlohmann::json ToJson(const Measured& one, const std::vector<Rival>& rivals,
                      const Ceilings& ceilings) {
  nlohmann::json json = ToJson(one.scan);
  json["composed"] = one.composed;
  for (const auto& [name, pass] : one.passes) {
    json[name] = {{"seconds", pass.seconds},
                  {"tokens_per_second", Tokens(one.scan) / pass.seconds},
                  {"flops", pass.flops},
                  {"flops_per_second", pass.flops / pass.seconds},
                  {"bytes", pass.bytes},
                  {"share_of_products", pass.flops / pass.seconds / ceilings.flops},
                  {"share_of_bandwidth", pass.bytes / pass.seconds / ceilings.bytes}};
    for (const Rival& rival : rivals) {
      const double theirs = rival.Rate(Name(one.scan), name);
      if (theirs > 0) json[name][rival.key + "_tokens_per_second"] = theirs;
    }
  }
  return json;
}

absl::Status WriteAll(const GpuMemoryBench& options, const std::vector<Measured>& all,
                      const std::vector<Rival>& rivals, const Roofline& roofline) {
  nlohmann::json json = {{"bench", "memory"},
                         {"device", "cuda"},
                         {"dtype", "bf16"},
                         {"gemm_peak_flops", roofline.ceilings.flops},
                         {"copy_bytes_per_second", roofline.ceilings.bytes},
                         {"shapes", nlohmann::json::array()}};
  for (const Measured& one : all) json["shapes"].push_back(ToJson(one, rivals, roofline.ceilings));
  for (const Rival& rival : rivals) {
    json[rival.key] = rival.said;
    if (!rival.status.ok()) json[rival.key]["error"] = rival.status.message();
  }
  MNEMO_RETURN_IF_ERROR(WriteBenchJson(options.json, std::move(json)));
  if (options.plot.empty()) return absl::OkStatus();
  return WriteFileAtomically(FileSystem::Posix(), options.plot, RooflineSvg(roofline));
}

absl::Status MeasureAll(const GpuMemoryBench& options) {
  Roofline roofline;
  roofline.title = "Memory scan, bf16, with the bytes that its kernels move";
  roofline.ceilings = {MeasureGemmCeiling(DType::kBF16, kGpu), MeasureCopyBandwidth(kGpu)};
  const Ceilings& ceilings = roofline.ceilings;
  fmt::print("memory scan, bf16; large products reach {:.0f} TFLOP/s, large copies {:.2f} TB/s\n",
             ceilings.flops * 1e-12, ceilings.bytes * 1e-12);
  std::fflush(stdout);
  std::vector<Measured> all;
  for (const MemoryScanCase& scan : options.cases) all.push_back(Measure(scan, roofline));
  std::vector<Rival> rivals;
  if (options.compare) {
    rivals = {{"pytorch", "PyTorch", "memory/scan_torch.py"},
              {"fla", "linear, FLA", "memory/linear_fla.py"}};
  }
  for (Rival& rival : rivals) Ask(rival, options);
  PrintTable(all, rivals, ceilings);
  MNEMO_RETURN_IF_ERROR(WriteAll(options, all, rivals, roofline));
  for (const Rival& rival : rivals) MNEMO_RETURN_IF_ERROR(rival.status);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchMemoryOnGpu(const GpuMemoryBench& options) {
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(options.json));
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(options.plot));
  return AtTheDoor([&] { return MeasureAll(options); });
}

}  // namespace mnemo
