#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "src/cli/bench_command.h"
#include "src/core/file_system.h"
#include "src/core/status.h"
#include "src/core/thread_pool.h"
#include "src/job/gemm_ceiling.h"
#include "src/job/op_bench.h"
#include "src/job/roofline_plot.h"
#include "src/job/timing.h"
#include "src/model/door.h"

namespace mnemo {
namespace {

struct OpFlags {
  bool cuda = false;
  DType dtype = DType::kF32;
  int threads = 0;
  std::string json, plot, from;
};

std::string PrintRate(double rate) {
  return rate >= 1e12 ? fmt::format("{:.2f} T", rate * 1e-12)
                      : fmt::format("{:.1f} G", rate * 1e-9);
}

void Print(const OpTime& op, const Ceilings& ceilings) {
  const std::string name =
      fmt::format("{}{}{} {}", op.model, op.model.empty() ? "" : "  ", op.name, op.shape);
  const std::string products =
      op.flops > 0 ? PrintRate(op.flops / op.seconds) + "FLOP/s" : std::string();
  fmt::print("{:<82} {:>9.1f} us {:>9}B/s {:>14} {:>5.0f}%{}\n", name, op.seconds * 1e6,
             PrintRate(op.bytes / op.seconds), products, 100 * op.Share(ceilings),
             op.composed ? "  composed" : "");
  std::fflush(stdout);
}

nlohmann::json ToJson(const OpTime& op, const Ceilings& ceilings) {
  return {{"op", op.name},
          {"shape", op.shape},
          {"model", op.model},
          {"kind", Name(op.kind)},
          {"seconds", op.seconds},
          {"flops", op.flops},
          {"bytes", op.bytes},
          {"flops_per_second", op.flops / op.seconds},
          {"bytes_per_second", op.bytes / op.seconds},
          {"share", op.Share(ceilings)},
          {"composed", op.composed}};
}

OpKind KindNamed(const std::string& name) {
  for (OpKind kind : {OpKind::kProduct, OpKind::kFusedForward, OpKind::kFusedBackward}) {
    if (name == Name(kind)) return kind;
  }
  return OpKind::kPrimitive;
}

// What a JSON of this command says, to be drawn.
absl::StatusOr<Roofline> ReadRoofline(const std::string& path) {
  MNEMO_ASSIGN_OR_RETURN(const std::string text, FileSystem::Posix().ReadFile(path));
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    Roofline roofline;
    roofline.title =
        fmt::format("Ops of a training step, {}, {}", json.at("dtype").get<std::string>(),
                    json.at("device").get<std::string>());
    roofline.ceilings = {json.at("gemm_peak_flops"), json.at("copy_bytes_per_second")};
    for (const nlohmann::json& op : json.at("ops")) {
      roofline.ops.push_back({.name = op.at("op"),
                              .shape = op.at("shape"),
                              .model = op.at("model"),
                              .kind = KindNamed(op.at("kind")),
                              .seconds = op.at("seconds"),
                              .flops = op.at("flops"),
                              .bytes = op.at("bytes"),
                              .composed = op.at("composed")});
    }
    return roofline;
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("{}: not a result of `mnemo bench ops`: {}", path, error.what());
  }
}

absl::Status WritePlot(const std::string& path, const Roofline& roofline) {
  if (path.empty()) return absl::OkStatus();
  return WriteFileAtomically(FileSystem::Posix(), path, RooflineSvg(roofline));
}

absl::StatusOr<Roofline> Measure(const OpFlags& flags, nlohmann::json& json) {
  const Device device{flags.cuda ? DeviceType::kCuda : DeviceType::kCpu};
  const DType dtype = flags.cuda ? DType::kBF16 : flags.dtype;
  const std::string where = flags.cuda ? fmt::format("cuda:{}", device.index) : "CPU";
  Roofline roofline;
  roofline.title = fmt::format("Ops of a training step, {}, {}", Name(dtype), where);
  roofline.ceilings = {MeasureGemmCeiling(dtype, device), MeasureCopyBandwidth(device)};
  const Ceilings& ceilings = roofline.ceilings;
  fmt::print("{}, {}; large products reach {}FLOP/s, large copies {}B/s\n", Name(dtype),
             flags.cuda ? where : fmt::format("{} threads", ThreadsForThisThread()),
             PrintRate(ceilings.flops), PrintRate(ceilings.bytes));
  json = {{"bench", "ops"},
          {"device", where},
          {"dtype", Name(dtype)},
          {"gemm_peak_flops", ceilings.flops},
          {"copy_bytes_per_second", ceilings.bytes},
          {"ops", nlohmann::json::array()}};
  const auto report = [&](const OpTime& op) {
    Print(op, ceilings);
    json["ops"].push_back(ToJson(op, ceilings));
    roofline.ops.push_back(op);
  };
  if (flags.cuda) {
    for (const ModelOpShapes& shapes : LargeModelOpShapes()) BenchModelOps(shapes, device, report);
  } else {
    BenchOps(dtype, report);
  }
  return roofline;
}

absl::Status RunOpBench(const OpFlags& flags) {
  if (!flags.from.empty()) {
    MNEMO_ASSIGN_OR_RETURN(const Roofline roofline, ReadRoofline(flags.from));
    return WritePlot(flags.plot, roofline);
  }
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.json));
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.plot));
  if (flags.threads > 0) SetThreadsForThisThread(flags.threads);
  nlohmann::json json;
  MNEMO_ASSIGN_OR_RETURN(const Roofline roofline, AtTheDoor([&] { return Measure(flags, json); }));
  MNEMO_RETURN_IF_ERROR(WriteBenchJson(flags.json, std::move(json)));
  return WritePlot(flags.plot, roofline);
}

}  // namespace

void AddBenchOps(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<OpFlags>();
  CLI::App* command = bench.add_subcommand(
      "ops",
      "Speed of single kernels beside that of large products and copies: on the CPU at shapes of "
      "small models, on a GPU, in bf16, at those of models with 375M and 1.36B parameters. Small "
      "tensors stay in caches, so that a kernel may be above 100%.");
  command
      ->add_option_function<std::string>(
          "--device", [flags](const std::string& name) { flags->cuda = name == "cuda"; },
          "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->default_str("cpu");
  AddDTypeFlag(*command, flags->dtype);
  command->add_option("--threads", flags->threads, "Threads; 0: all cores")->capture_default_str();
  command->add_option("--json", flags->json, "File to write the results to as well");
  CLI::Option* plot = command->add_option("--plot", flags->plot, "SVG file to draw a roofline in");
  command->add_option("--from", flags->from, "Draw what this JSON holds, and measure nothing")
      ->needs(plot);
  command->callback([&chosen, flags] { chosen = [flags] { return RunOpBench(*flags); }; });
}

}  // namespace mnemo
