#include "src/parallel/plan.h"

#include <fmt/format.h>

namespace mnemo {
namespace {

v1::StepShape ShapeOf(const PlanInputs& in) {
  v1::StepShape shape;
  shape.set_sequence_length(in.sequence_length);
  shape.set_slice(in.slice);
  shape.set_slices((in.sequence_length + in.slice - 1) / in.slice);
  shape.set_layers(in.layers);
  shape.set_sequences(in.sequences);
  shape.set_micro_batches(in.micro_batches);
  shape.set_accumulation(in.accumulation);
  shape.set_tokens(in.sequence_length * in.sequences * in.micro_batches * in.accumulation);
  shape.set_units(shape.slices() * in.micro_batches * in.layers);
  shape.set_parameters(in.parameters);
  return shape;
}

// The fullest moment is at the beginning of the backward pass: everything kept is still there and
// one unit is at work. Later, each adjoint of a carry takes the place of a carry that is done with.
v1::MemoryEstimate MemoryOf(const PlanInputs& in, const v1::StepShape& shape) {
  const int64_t in_flight = shape.slices() * in.micro_batches;  // slices of a wavefront
  const int64_t edges = (shape.slices() - 1) * in.micro_batches;
  v1::MemoryEstimate memory;
  memory.set_weights(in.weight_bytes);
  memory.set_gradients(in.gradient_bytes);
  memory.set_optimizer(in.optimizer_bytes);
  memory.set_carry_bytes_per_hop(in.carry_bytes);
  const int64_t tokens = in.token_bytes * in.micro_batches * in.accumulation;
  if (in.rematerialize == v1::KEEP_ALL) {
    memory.set_kept_inputs(tokens);
    memory.set_tapes(in_flight * (in.layers * in.unit_tape_bytes + in.head_tape_bytes));
  } else {
    // Every layer's input and the head's; the first slice of a sequence has no carry.
    const int64_t slices = in.rematerialize == v1::SLICES ? 1 : in_flight;
    memory.set_kept_inputs(tokens + slices * (in.layers + 1) * in.input_bytes);
    memory.set_carries(edges * in.layers * in.carry_bytes);
  }
  memory.set_workspace(in.workspace_bytes);
  memory.set_total(memory.weights() + memory.gradients() + memory.optimizer() +
                   memory.kept_inputs() + memory.carries() + memory.tapes() + memory.workspace());
  return memory;
}

v1::WorkEstimate WorkOf(const PlanInputs& in) {
  const int again = in.rematerialize == v1::KEEP_ALL ? 0 : in.rematerialize == v1::SLICES ? 2 : 1;
  v1::WorkEstimate work;
  work.set_forward_flops_per_token(in.forward_flops_per_token);
  work.set_model_flops_per_token(in.model_flops_per_token);
  work.set_run_flops_per_token(in.model_flops_per_token + again * in.forward_flops_per_token);
  return work;
}

std::string PrintCount(double count) {
  constexpr const char* kUnits[] = {" ", " k", " M", " G", " T"};
  int unit = 0;
  while (count >= 1000 && unit < 4) {
    count /= 1000;
    ++unit;
  }
  return fmt::format("{:.4g}{}", count, kUnits[unit]);
}

std::string Line(const char* name, const std::string& value) {
  return fmt::format("  {:<24}{}\n", name, value);
}

}  // namespace

v1::Plan MakePlan(const PlanInputs& inputs) {
  v1::Plan plan;
  plan.mutable_mesh()->set_dp(1);
  plan.mutable_mesh()->set_sp(1);
  plan.mutable_mesh()->set_tp(1);
  *plan.mutable_step() = ShapeOf(inputs);
  *plan.mutable_memory() = MemoryOf(inputs, plan.step());
  *plan.mutable_work() = WorkOf(inputs);
  return plan;
}

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
  const v1::MemoryEstimate& memory = plan.memory();
  const v1::WorkEstimate& work = plan.work();
  std::string text = "model\n";
  text += Line("parameters", fmt::format("{}", step.parameters()));
  text += Line("layers", fmt::format("{}", step.layers()));
  text += "step\n";
  text += Line("tokens", fmt::format("{} = {} accumulation x {} micro-batches x {} sequences x {}",
                                     step.tokens(), step.accumulation(), step.micro_batches(),
                                     step.sequences(), step.sequence_length()));
  text += Line("slices", fmt::format("{} of {} tokens", step.slices(), step.slice()));
  text += Line("units", fmt::format("{} a wavefront", step.units()));
  text += "memory\n";
  text += Line("weights", PrintBytes(memory.weights()));
  text += Line("gradients", PrintBytes(memory.gradients()));
  text += Line("optimizer", PrintBytes(memory.optimizer()));
  text += Line("kept inputs", PrintBytes(memory.kept_inputs()));
  text += Line("carries", fmt::format("{} ({} a layer and hop)", PrintBytes(memory.carries()),
                                      PrintBytes(memory.carry_bytes_per_hop())));
  if (memory.tapes() > 0) text += Line("tapes", PrintBytes(memory.tapes()));
  text += Line("workspace", PrintBytes(memory.workspace()));
  text += Line("total", PrintBytes(memory.total()));
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
