#include <fmt/format.h>

#include "src/parallel/plan.h"

namespace mnemo {
namespace {

std::string PrintCount(double count) {
  constexpr const char* kUnits[] = {" ", " k", " M", " G", " T"};
  int unit = 0;
  while (count >= 1000 && unit < 4) {
    count /= 1000;
    ++unit;
  }
  return fmt::format("{:.4g}{}", count, kUnits[unit]);
}

// "1 slice", "2 slices".
std::string Counted(int64_t count, const char* what, const char* plural = "s") {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : plural);
}

std::string Line(const char* name, const std::string& value) {
  return fmt::format("  {:<24}{}\n", name, value);
}

std::string ByteLine(const char* name, int64_t bytes) { return Line(name, PrintBytes(bytes)); }

std::string PrintStep(const v1::StepShape& step) {
  std::string text = "step\n";
  text += Line("tokens",
               fmt::format("{} = {} accumulation x {} x {} x {}", step.tokens(),
                           step.accumulation(), Counted(step.micro_batches(), "micro-batch", "es"),
                           Counted(step.sequences(), "sequence"), step.sequence_length()));
  text += Line("slices", fmt::format("{} of {}", step.slices(), Counted(step.slice(), "token")));
  return text;
}

std::string PrintRanks(const v1::Plan& plan) {
  const v1::StepShape& step = plan.step();
  const v1::ScheduleEstimate& schedule = plan.schedule();
  const Mesh mesh = MeshOf(plan);
  std::string text = "ranks\n";
  text += Line("mesh", fmt::format("{} = {}", ToString(mesh), Counted(mesh.size(), "rank")));
  text += Line("of a replica",
               fmt::format("{} of {}", Counted(step.replica_accumulation(), "wavefront"),
                           Counted(step.replica_micro_batches(), "micro-batch", "es")));
  text += Line("of a rank", fmt::format("{}, {} a wavefront", Counted(step.rank_slices(), "slice"),
                                        Counted(step.units(), "unit")));
  text += Line("slots", fmt::format("{} on the wrap edge, {} on the others, each way",
                                    schedule.wrap_slots(), schedule.other_slots()));
  std::string busy = fmt::format("{:.1f} % of the time", 100 * schedule.busy());
  const int turn = step.layers() * step.replica_micro_batches();
  if (mesh.sp > turn) {
    busy += fmt::format(": sp = {} is above layers x micro-batches = {}", mesh.sp, turn);
  }
  text += Line("busy", busy);
  return text;
}

std::string PrintMemory(const v1::Plan& plan) {
  const v1::MemoryEstimate& memory = plan.memory();
  std::string text = "memory of the fullest rank\n";
  text += ByteLine("weights", memory.weights());
  if (memory.compute_copies() > 0) text += ByteLine("compute copies", memory.compute_copies());
  text += ByteLine("gradients", memory.gradients());
  text += Line("optimizer",
               PrintBytes(memory.optimizer()) +
                   (plan.zero() > 0 && plan.mesh().dp() * plan.mesh().sp() > 1
                        ? fmt::format(" (a shard of {})", plan.mesh().dp() * plan.mesh().sp())
                        : ""));
  text += ByteLine("kept inputs", memory.kept_inputs());
  text += Line("carries", fmt::format("{} ({} a layer and hop)", PrintBytes(memory.carries()),
                                      PrintBytes(memory.carry_bytes_per_hop())));
  if (memory.tapes() > 0) text += ByteLine("tapes", memory.tapes());
  text += ByteLine("workspace", memory.workspace());
  text += ByteLine("tokens", memory.tokens());
  if (memory.slots() > 0) text += ByteLine("slots", memory.slots());
  if (memory.reduction() > 0) text += ByteLine("gradient sum", memory.reduction());
  if (memory.snapshot() > 0) {
    // Without a process beside them, tensors are on a device.
    text += Line("being saved", PrintBytes(memory.snapshot()) +
                                    (memory.process() > 0 ? "" : " of the host, not in the total"));
  }
  if (memory.cache() > 0) text += ByteLine("kept for reuse", memory.cache());
  if (memory.process() > 0) text += ByteLine("process", memory.process());
  text += ByteLine("total", memory.total());
  return text;
}

}  // namespace

std::string PrintBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string PrintPlan(const v1::Plan& plan) {
  const v1::StepShape& step = plan.step();
  const v1::WorkEstimate& work = plan.work();
  std::string text = "model\n";
  text += Line("parameters", fmt::format("{}", step.parameters()));
  text += Line("layers", fmt::format("{}", step.layers()));
  text += PrintStep(step);
  text += PrintRanks(plan);
  text += PrintMemory(plan);
  text += "work\n";
  text += Line("forward", PrintCount(work.forward_flops_per_token()) + "FLOP a token");
  text += Line("forward + backward", PrintCount(work.model_flops_per_token()) + "FLOP a token");
  text += Line("with rematerialization", PrintCount(work.run_flops_per_token()) + "FLOP a token");
  text +=
      Line("a step",
           PrintCount(work.model_flops_per_token() * static_cast<double>(step.tokens())) + "FLOP");
  return text;
}

}  // namespace mnemo
