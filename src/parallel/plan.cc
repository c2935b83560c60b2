#include "src/parallel/plan.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <xxhash.h>

#include <algorithm>

#include "src/core/status.h"
#include "src/parallel/communicator.h"
#include "src/parallel/ranks.h"
#include "src/parallel/relay.h"
#include "src/parallel/simulate.h"

namespace mnemo {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

absl::Status CheckSuits(const PlanInputs& in, const Mesh& mesh, int64_t slices) {
  if (in.whole_sequences && (mesh.sp > 1 || slices > 1)) {
    return InvalidArgument(
        "parallel.sp = {}, {} slices: attention without a window reads the whole sequence on one "
        "rank; set model.attention.window, or parallel.sp = 1 and one slice",
        mesh.sp, slices);
  }
  if (mesh.sp > slices) {
    return InvalidArgument(
        "parallel.sp = {}: sequences of {} tokens have only {} slices of {}, so that ranks would "
        "have nothing to do; lower train.slice, or parallel.sp",
        mesh.sp, in.sequence_length, slices, in.slice);
  }
  return absl::OkStatus();
}

v1::StepShape StepOf(const PlanInputs& in, const Mesh& mesh, const ReplicaShare& share) {
  v1::StepShape step;
  step.set_sequence_length(in.sequence_length);
  step.set_slice(in.slice);
  step.set_slices(DivideUp(in.sequence_length, in.slice));
  step.set_layers(in.layers);
  step.set_sequences(in.sequences);
  step.set_micro_batches(in.micro_batches);
  step.set_accumulation(in.accumulation);
  step.set_tokens(in.sequence_length * in.sequences * in.micro_batches * in.accumulation);
  step.set_replica_micro_batches(share.micro_batches);
  step.set_replica_accumulation(share.accumulation);
  step.set_rank_slices(DivideUp(step.slices(), mesh.sp));
  step.set_units(step.rank_slices() * share.micro_batches * in.layers);
  step.set_parameters(in.parameters);
  return step;
}

// The fullest moment is at the beginning of the backward pass: everything kept is still there and
// one unit is at work. Later, each adjoint of a carry takes the place of a carry that is done with.
// Buffers for the sum of gradients are counted as if they were there at that moment, too.
v1::MemoryEstimate MemoryOf(const PlanInputs& in, const v1::StepShape& step,
                            const ScheduleShape& shape, const EdgeSlots& slots, int group,
                            int rank) {
  const int64_t own = DivideUp(shape.slices - rank, shape.ranks);
  const int64_t in_flight = own * shape.micro_batches;  // slices of a wavefront
  // The first slice of a sequence has no carry.
  const int64_t carried = (own - (rank == 0 ? 1 : 0)) * shape.micro_batches;
  v1::MemoryEstimate memory;
  memory.set_weights(in.weight_bytes);
  memory.set_compute_copies(in.compute_copy_bytes);
  memory.set_gradients(in.gradient_bytes);
  memory.set_optimizer(DivideUp(in.optimizer_bytes, in.zero > 0 ? group : 1));
  memory.set_carry_bytes_per_hop(in.carry_bytes);
  const int64_t tokens = in.token_bytes * shape.micro_batches * step.replica_accumulation();
  memory.set_tokens(DivideUp((tokens + in.read_ahead_bytes) * own, shape.slices));
  if (in.rematerialize == v1::KEEP_ALL) {
    memory.set_tapes(in_flight * (in.layers * in.unit_tape_bytes + in.head_tape_bytes));
  } else {
    // Every layer's input and the head's.
    const int64_t slices = in.rematerialize == v1::SLICES ? 1 : in_flight;
    memory.set_kept_inputs(slices * (in.layers + 1) * in.input_bytes);
    memory.set_carries(carried * in.layers * in.carry_bytes);
  }
  memory.set_workspace(in.workspace_bytes);
  memory.set_slots(RelayBuffers(shape, slots, rank) * in.carry_bytes);
  memory.set_reduction(ReductionBufferBytes(in.gradient_bytes, group));
  memory.set_cache(in.cache_bytes);
  memory.set_process(in.process_bytes);
  memory.set_snapshot(DivideUp(in.snapshot_bytes, group));
  memory.set_total(memory.weights() + memory.compute_copies() + memory.gradients() +
                   memory.optimizer() + memory.kept_inputs() + memory.carries() + memory.tapes() +
                   memory.workspace() + memory.slots() + memory.reduction() + memory.tokens() +
                   memory.cache() + memory.process() + (in.on_host ? memory.snapshot() : 0));
  return memory;
}

int RunsAgain(v1::Rematerialize policy) {
  return policy == v1::KEEP_ALL ? 0 : policy == v1::SLICES ? 2 : 1;
}

v1::WorkEstimate WorkOf(const PlanInputs& in) {
  v1::WorkEstimate work;
  work.set_forward_flops_per_token(in.forward_flops_per_token);
  work.set_model_flops_per_token(in.model_flops_per_token);
  work.set_run_flops_per_token(in.model_flops_per_token +
                               RunsAgain(in.rematerialize) * in.forward_flops_per_token);
  return work;
}

v1::ScheduleEstimate ScheduleOf(const PlanInputs& in, const v1::StepShape& step,
                                const ScheduleShape& shape, const EdgeSlots& slots) {
  const int64_t forward = 1, backward = 2 + RunsAgain(in.rematerialize);
  const int64_t ticks = StepTicks(shape, forward, backward);
  const int64_t units = shape.slices * shape.layers * shape.micro_batches;
  v1::ScheduleEstimate schedule;
  schedule.set_wrap_slots(slots.wrap);
  schedule.set_other_slots(slots.other);
  schedule.set_step_ticks(step.replica_accumulation() * ticks);
  schedule.set_busy(static_cast<double>(units * (forward + backward)) /
                    (static_cast<double>(ticks) * shape.ranks));
  return schedule;
}

}  // namespace

absl::StatusOr<v1::Plan> MakePlan(const PlanInputs& inputs, const Mesh& mesh,
                                  const PlanOptions& options) {
  MNEMO_RETURN_IF_ERROR(CheckMesh(mesh, mesh.size()));
  MNEMO_CHECK(mesh.tp == inputs.tp, "sizes of tp = {} for a mesh of {}", inputs.tp, mesh.tp);
  MNEMO_RETURN_IF_ERROR(CheckSuits(inputs, mesh, DivideUp(inputs.sequence_length, inputs.slice)));
  MNEMO_ASSIGN_OR_RETURN(const ReplicaShare share,
                         ShareOfReplica(mesh.dp, inputs.accumulation, inputs.micro_batches));
  v1::Plan plan;
  plan.mutable_mesh()->set_dp(mesh.dp);
  plan.mutable_mesh()->set_sp(mesh.sp);
  plan.mutable_mesh()->set_tp(mesh.tp);
  plan.set_zero(inputs.zero);
  *plan.mutable_step() = StepOf(inputs, mesh, share);
  const ScheduleShape shape = ShapeOf(plan);
  const EdgeSlots slots = options.slots.value_or(SlotsForFullSpeed(shape));
  MNEMO_RETURN_IF_ERROR(CheckSlots(shape, slots));
  for (int rank = 0; rank < mesh.sp; ++rank) {
    v1::MemoryEstimate memory =
        MemoryOf(inputs, plan.step(), shape, slots, mesh.dp * mesh.sp, rank);
    if (memory.total() > plan.memory().total()) *plan.mutable_memory() = std::move(memory);
  }
  if (options.memory_limit && plan.memory().total() > *options.memory_limit) {
    return absl::ResourceExhaustedError(fmt::format(
        "the fullest rank needs {}, above the limit of {}; lower train.slice, or take more ranks "
        "or less to keep (train.rematerialize: SLICES)",
        PrintBytes(plan.memory().total()), PrintBytes(*options.memory_limit)));
  }
  *plan.mutable_work() = WorkOf(inputs);
  *plan.mutable_schedule() = ScheduleOf(inputs, plan.step(), shape, slots);
  return plan;
}

int FewestRanks(const v1::ParallelConfig& wanted) {
  double ranks = 1;
  for (const int axis : {wanted.dp(), wanted.sp(), wanted.tp()}) ranks *= std::max(1, axis);
  return static_cast<int>(std::min<double>(ranks, kMostRanks));
}

int64_t TensorBytes(const v1::MemoryEstimate& memory) {
  return memory.total() - memory.slots() - memory.reduction() - memory.cache() - memory.process();
}

Mesh MeshOf(const v1::Plan& plan) { return {plan.mesh().dp(), plan.mesh().sp(), plan.mesh().tp()}; }

ScheduleShape ShapeOf(const v1::Plan& plan) {
  return {plan.step().slices(), plan.mesh().sp(), plan.step().layers(),
          plan.step().replica_micro_batches()};
}

uint64_t PlanDigest(const v1::Plan& plan) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    plan.SerializeToCodedStream(&out);
  }
  return std::max<uint64_t>(1, XXH3_64bits(bytes.data(), bytes.size()));
}

}  // namespace mnemo
