#include "src/parallel/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/parallel/communicator.h"
#include "src/parallel/relay.h"
#include "src/parallel/simulate.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

PlanInputs Inputs() {
  PlanInputs in;
  in.sequence_length = 100;
  in.slice = 30;  // four slices, the last one short
  in.layers = 3;
  in.sequences = 2;
  in.micro_batches = 5;
  in.accumulation = 7;
  in.parameters = 11;
  in.weight_bytes = 1;
  in.gradient_bytes = 10;
  in.optimizer_bytes = 100;
  in.input_bytes = 1000;
  in.carry_bytes = 10000;
  in.unit_tape_bytes = 1 << 20;
  in.head_tape_bytes = 1 << 18;
  in.workspace_bytes = 3 << 20;
  in.token_bytes = 4;
  in.read_ahead_bytes = 40;
  in.cache_bytes = 6;
  in.process_bytes = 5;
  in.forward_flops_per_token = 2;
  in.model_flops_per_token = 6;
  return in;
}

v1::Plan Plan(const PlanInputs& inputs, const Mesh& mesh = {}) {
  return MakePlan(inputs, mesh).value();
}

TEST(PlanTest, CountsTheStep) {
  const v1::StepShape step = Plan(Inputs()).step();
  EXPECT_EQ(step.slices(), 4);
  EXPECT_EQ(step.tokens(), 100 * 2 * 5 * 7);
  EXPECT_EQ(step.units(), 4 * 5 * 3);
  EXPECT_EQ(step.parameters(), 11);
  EXPECT_EQ(step.rank_slices(), 4);
  EXPECT_EQ(step.replica_micro_batches(), 5);
  EXPECT_EQ(step.replica_accumulation(), 7);
}

int64_t Sum(const v1::MemoryEstimate& m) {
  return m.weights() + m.gradients() + m.optimizer() + m.kept_inputs() + m.carries() + m.tapes() +
         m.workspace() + m.slots() + m.reduction() + m.tokens() + m.cache() + m.process();
}

TEST(PlanTest, UnitsKeepsEveryInputAndCarry) {
  const v1::MemoryEstimate memory = Plan(Inputs()).memory();
  EXPECT_EQ(memory.weights(), 1);
  EXPECT_EQ(memory.gradients(), 10);
  EXPECT_EQ(memory.optimizer(), 100);
  // Four slices of five micro-batches, three layers and the head.
  EXPECT_EQ(memory.kept_inputs(), 4 * 5 * (3 + 1) * 1000);
  EXPECT_EQ(memory.tokens(), 4 * 5 * 7 + 40);
  EXPECT_EQ(memory.carries(), 3 * 5 * 3 * 10000);  // three edges between slices
  EXPECT_EQ(memory.carry_bytes_per_hop(), 10000);
  EXPECT_EQ(memory.tapes(), 0);
  EXPECT_EQ(memory.workspace(), 3 << 20);
  EXPECT_EQ(memory.slots(), 0);  // one rank passes tensors on
  EXPECT_EQ(memory.reduction(), 0);
  EXPECT_EQ(memory.cache(), 6);
  EXPECT_EQ(memory.process(), 5);
  EXPECT_EQ(memory.total(), Sum(memory));
  EXPECT_EQ(TensorBytes(memory), memory.total() - 6 - 5);
}

TEST(PlanTest, ACopyOfWhatIsSavedCountsWhereTensorsAreOnTheHost) {
  PlanInputs in = Inputs();
  const int64_t without = Plan(in).memory().total();
  EXPECT_EQ(Plan(in).memory().snapshot(), 0);
  in.snapshot_bytes = 201;
  EXPECT_EQ(Plan(in).memory().snapshot(), 201);
  EXPECT_EQ(Plan(in).memory().total(), without + 201);
  in.on_host = false;
  EXPECT_EQ(Plan(in).memory().snapshot(), 201);
  EXPECT_EQ(Plan(in).memory().total(), without);
  EXPECT_EQ(Plan(in, {.sp = 2}).memory().snapshot(), 101) << "each rank saves its share";
  EXPECT_THAT(PrintPlan(Plan(in)), HasSubstr("being saved             201 B\n"));
  in.process_bytes = 0;
  EXPECT_THAT(PrintPlan(Plan(in)), HasSubstr(" 201 B of the host, not in the total\n"));
}

TEST(PlanTest, SlicesKeepsTheInputsOfOneSlice) {
  PlanInputs in = Inputs();
  in.rematerialize = v1::SLICES;
  EXPECT_EQ(Plan(in).memory().kept_inputs(), (3 + 1) * 1000);
  EXPECT_EQ(Plan(in).memory().carries(), 3 * 5 * 3 * 10000);
}

TEST(PlanTest, KeepAllKeepsTapes) {
  PlanInputs in = Inputs();
  in.rematerialize = v1::KEEP_ALL;
  const v1::MemoryEstimate memory = Plan(in).memory();
  EXPECT_EQ(memory.tapes(), 4 * 5 * (3 * (1 << 20) + (1 << 18)));
  EXPECT_EQ(memory.kept_inputs(), 0);
  EXPECT_EQ(memory.carries(), 0);  // part of the tapes
}

TEST(PlanTest, OneSliceHasNoCarry) {
  PlanInputs in = Inputs();
  in.slice = 100;
  EXPECT_EQ(Plan(in).memory().carries(), 0);
}

TEST(PlanTest, WorkCountsWhatRunsAgain) {
  PlanInputs in = Inputs();
  EXPECT_EQ(Plan(in).work().run_flops_per_token(), 8);
  in.rematerialize = v1::SLICES;
  EXPECT_EQ(Plan(in).work().run_flops_per_token(), 10);
  in.rematerialize = v1::KEEP_ALL;
  EXPECT_EQ(Plan(in).work().run_flops_per_token(), 6);
}

// Nine slices on four ranks: rank 0 has three of them, but its first has no carry.
TEST(PlanTest, ManyRanksTakeTheFullestOne) {
  PlanInputs in = Inputs();
  in.sequence_length = 270;
  const v1::Plan plan = Plan(in, {7, 4, 1});
  EXPECT_EQ(MeshOf(plan), (Mesh{7, 4, 1}));
  EXPECT_EQ(plan.step().slices(), 9);
  EXPECT_EQ(plan.step().rank_slices(), 3);
  EXPECT_EQ(plan.step().units(), 3 * 5 * 3);
  EXPECT_EQ(plan.step().replica_accumulation(), 1);
  EXPECT_EQ(plan.step().replica_micro_batches(), 5);
  EXPECT_EQ(plan.step().tokens(), 270 * 2 * 5 * 7);  // of all ranks
  const v1::MemoryEstimate& memory = plan.memory();
  EXPECT_EQ(memory.kept_inputs(), 3 * 5 * (3 + 1) * 1000);
  EXPECT_EQ(memory.carries(), 2 * 5 * 3 * 10000);
  EXPECT_EQ(memory.optimizer(), 4);                            // 100 / 28, rounded up
  EXPECT_EQ(memory.tokens(), ((4 * 5 * 1 + 40) * 3 + 8) / 9);  // of its slices
  // 3 x 5 - 4 + 2 slots on the wrap edge, which rank 0 receives on forward and sends on backward.
  EXPECT_EQ(plan.schedule().wrap_slots(), 13);
  EXPECT_EQ(plan.schedule().other_slots(), 2);
  EXPECT_EQ(memory.slots(), (13 + 2 + 2 + 2) * 10000);
  EXPECT_EQ(memory.reduction(), ReductionBufferBytes(10, 28));
  EXPECT_EQ(memory.total(), Sum(memory));
}

TEST(PlanTest, WithoutShardingEveryRankKeepsTheWholeState) {
  PlanInputs in = Inputs();
  in.zero = 0;
  const v1::Plan plan = Plan(in, {1, 4, 1});
  EXPECT_EQ(plan.memory().optimizer(), 100);
  EXPECT_EQ(plan.zero(), 0);
}

// What waits for other ranks is of the size of a carry, whatever the length of the sequence.
TEST(PlanTest, AHopDoesNotDependOnTheSequence) {
  PlanInputs in = Inputs();
  in.sequence_length = 240;
  const v1::MemoryEstimate one = Plan(in, {1, 4, 1}).memory();
  in.sequence_length *= 1000;
  const v1::MemoryEstimate thousand = Plan(in, {1, 4, 1}).memory();
  EXPECT_EQ(thousand.carry_bytes_per_hop(), one.carry_bytes_per_hop());
  EXPECT_EQ(thousand.slots(), one.slots());
  EXPECT_EQ(thousand.kept_inputs(), 1000 * one.kept_inputs());
}

TEST(PlanTest, FewerSlotsThanFullSpeedNeedsAreRefused) {
  const PlanInputs in = Inputs();
  const Mesh mesh{1, 4, 1};
  PlanOptions options;
  options.slots = EdgeSlots{13, 2};
  EXPECT_TRUE(MakePlan(in, mesh, options).ok());
  for (const EdgeSlots& slots : {EdgeSlots{12, 2}, EdgeSlots{13, 1}}) {
    options.slots = slots;
    for (const absl::Status& status :
         {MakePlan(in, mesh, options).status(), ChoosePlan(in, {}, 4, options).status()}) {
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("slots on the wrap edge"));
      EXPECT_THAT(std::string(status.message()), HasSubstr("need 13 and 2"));
    }
  }
}

v1::ParallelConfig Wanted(int dp, int sp, int tp = 0) {
  v1::ParallelConfig wanted;
  wanted.set_dp(dp);
  wanted.set_sp(sp);
  wanted.set_tp(tp);
  return wanted;
}

// Replicas do not wait for each other, so that dp takes all that it can share.
TEST(ChoosePlanTest, TakesTheFastestMesh) {
  PlanInputs in = Inputs();
  in.slice = 10;  // 10 slices
  const auto mesh = [&](int ranks) { return MeshOf(ChoosePlan(in, {}, ranks).value()); };
  EXPECT_EQ(mesh(1), (Mesh{1, 1, 1}));
  EXPECT_EQ(mesh(5), (Mesh{5, 1, 1}));
  EXPECT_EQ(mesh(7), (Mesh{7, 1, 1}));
  EXPECT_EQ(mesh(35), (Mesh{35, 1, 1}));
  EXPECT_EQ(mesh(2), (Mesh{1, 2, 1}));
  EXPECT_EQ(mesh(14), (Mesh{7, 2, 1}));
  EXPECT_EQ(mesh(70), (Mesh{35, 2, 1}));
  EXPECT_EQ(mesh(50), (Mesh{5, 10, 1}));
}

TEST(ChoosePlanTest, KeepsTheAxesThatAreGiven) {
  PlanInputs in = Inputs();
  in.slice = 10;
  EXPECT_EQ(MeshOf(ChoosePlan(in, Wanted(1, 0), 5).value()), (Mesh{1, 5, 1}));
  EXPECT_EQ(MeshOf(ChoosePlan(in, Wanted(0, 2), 10).value()), (Mesh{5, 2, 1}));
  EXPECT_EQ(MeshOf(ChoosePlan(in, Wanted(5, 2), 10).value()), (Mesh{5, 2, 1}));
  in.tp = 2;
  EXPECT_EQ(MeshOf(ChoosePlan(in, Wanted(0, 0, 2), 10).value()), (Mesh{5, 1, 2}));
  EXPECT_EQ(FewestRanks(Wanted(0, 2, 3)), 6);
  EXPECT_EQ(FewestRanks(Wanted(0, 0)), 1);
  EXPECT_EQ(FewestRanks(Wanted(1 << 20, 1 << 20, 1 << 20)), kMostRanks);
}

// Slices on more ranks need less on each: memory decides where the fastest mesh has too little.
TEST(ChoosePlanTest, TakesASlowerMeshThatFits) {
  PlanInputs in = Inputs();
  in.slice = 10;
  in.input_bytes = 1 << 20;
  in.carry_bytes = 1 << 10;
  const v1::Plan fast = ChoosePlan(in, {}, 7).value();
  const v1::Plan small = MakePlan(in, {1, 7, 1}).value();
  ASSERT_LT(small.memory().total(), fast.memory().total());
  EXPECT_GT(small.schedule().step_ticks(), fast.schedule().step_ticks());
  PlanOptions options;
  options.memory_limit = fast.memory().total();
  EXPECT_EQ(MeshOf(ChoosePlan(in, {}, 7, options).value()), (Mesh{7, 1, 1}));
  options.memory_limit = fast.memory().total() - 1;
  EXPECT_EQ(MeshOf(ChoosePlan(in, {}, 7, options).value()), (Mesh{1, 7, 1}));
  options.memory_limit = small.memory().total() - 1;
  const absl::Status refused = ChoosePlan(in, {}, 7, options).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("dp 1 x sp 7 x tp 1: the fullest rank"));
}

// Every mesh that is legal is slower or as large; by brute force.
TEST(ChoosePlanTest, NoLegalMeshIsFaster) {
  PlanInputs in = Inputs();
  in.slice = 10;
  int legal = 0;
  for (int ranks = 1; ranks <= 70; ++ranks) {
    const absl::StatusOr<v1::Plan> best = ChoosePlan(in, {}, ranks);
    for (int dp = 1; dp <= ranks; ++dp) {
      if (ranks % dp != 0) continue;
      const absl::StatusOr<v1::Plan> other = MakePlan(in, {dp, ranks / dp, 1});
      if (!other.ok()) continue;
      ++legal;
      ASSERT_TRUE(best.ok()) << best.status();
      EXPECT_LE(best->schedule().step_ticks(), other->schedule().step_ticks());
    }
  }
  EXPECT_GT(legal, 30);
}

TEST(ChoosePlanTest, SaysWhatWasTriedAndWhatWouldDo) {
  const PlanInputs in = Inputs();  // 4 slices, 5 micro-batches, 7 wavefronts
  const auto refusal = [&](const v1::ParallelConfig& wanted, int ranks) {
    const absl::Status status = ChoosePlan(in, wanted, ranks).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal({}, 11), HasSubstr("no mesh of 11 ranks"));
  EXPECT_THAT(refusal({}, 11), HasSubstr("dp 11 x sp 1 x tp 1: 11 replicas (dp) cannot share"));
  EXPECT_THAT(refusal({}, 11), HasSubstr("dp 1 x sp 11 x tp 1: parallel.sp = 11"));
  EXPECT_THAT(refusal({}, 11), HasSubstr("lower train.slice"));
  EXPECT_THAT(refusal({}, 11), HasSubstr("; 10 ranks would do"));
  // Of meshes that are refused for the same reason one is told.
  EXPECT_THAT(refusal({}, 64), HasSubstr("dp 16 x sp 4 x tp 1: 16 replicas"));
  EXPECT_THAT(refusal({}, 64), HasSubstr(" (and 2 meshes alike)"));
  EXPECT_THAT(refusal({}, 64), testing::Not(HasSubstr("dp 32 x")));
  EXPECT_THAT(refusal({}, 64), HasSubstr("dp 1 x sp 64 x tp 1: parallel.sp = 64"));
  EXPECT_THAT(refusal(Wanted(2, 3), 4), HasSubstr("start 6, or change the mesh"));
  EXPECT_THAT(refusal(Wanted(0, 3), 4), HasSubstr("start a multiple of 3"));
  EXPECT_THAT(refusal(Wanted(3, 0), 3), HasSubstr("3 replicas (dp) cannot share"));
  EXPECT_THAT(refusal(Wanted(2, 3), 1), HasSubstr("start 6"));
  EXPECT_THAT(refusal({}, 0), HasSubstr("at least one"));
  // A prime far above anything that has work.
  EXPECT_THAT(refusal({}, 1000003), HasSubstr("; 140 ranks would do"));
}

TEST(ChoosePlanTest, FullAttentionStaysOnOneRank) {
  PlanInputs in = Inputs();
  in.whole_sequences = true;
  EXPECT_THAT(std::string(ChoosePlan(in, {}, 1).status().message()),
              HasSubstr("attention without a window"));
  in.slice = 100;
  EXPECT_TRUE(ChoosePlan(in, {}, 1).ok());
  EXPECT_EQ(MeshOf(ChoosePlan(in, {}, 5).value()), (Mesh{5, 1, 1}));
  EXPECT_THAT(std::string(ChoosePlan(in, {}, 2).status().message()),
              HasSubstr("attention without a window"));
}

TEST(ChoosePlanTest, TheBusyFractionIsTheSimulations) {
  PlanInputs in = Inputs();
  in.sequence_length = 3000;
  for (const Mesh& mesh : {Mesh{1, 1, 1}, Mesh{1, 4, 1}, Mesh{1, 16, 1}, Mesh{7, 3, 1}}) {
    const v1::Plan plan = ChoosePlan(in, Wanted(mesh.dp, mesh.sp), mesh.size()).value();
    const ScheduleShape shape = ShapeOf(plan);
    SimulationOptions options;
    options.slots = SlotsForFullSpeed(shape);
    EXPECT_EQ(plan.schedule().busy(), Simulate(shape, options).busy);
    // The closed form agrees to the bit.
    EXPECT_EQ(MakePlan(in, mesh).value().schedule().busy(), plan.schedule().busy());
    options.backward_ticks = 3;  // and run again once
    EXPECT_EQ(plan.schedule().step_ticks(),
              plan.step().replica_accumulation() * Simulate(shape, options).ticks);
  }
}

TEST(PlanTest, TheDigestFollowsThePlan) {
  const v1::Plan plan = ChoosePlan(Inputs(), {}, 4).value();
  EXPECT_EQ(PlanDigest(plan), PlanDigest(ChoosePlan(Inputs(), {}, 4).value()));
  EXPECT_NE(PlanDigest(plan), PlanDigest(ChoosePlan(Inputs(), {}, 2).value()));
  PlanInputs in = Inputs();
  ++in.workspace_bytes;
  EXPECT_NE(PlanDigest(plan), PlanDigest(ChoosePlan(in, {}, 4).value()));
  EXPECT_NE(PlanDigest({}), 0u);
}

TEST(PlanTest, PrintsBytes) {
  EXPECT_EQ(PrintBytes(0), "0 B");
  EXPECT_EQ(PrintBytes(1023), "1023 B");
  EXPECT_EQ(PrintBytes(1536), "1.5 KiB");
  EXPECT_EQ(PrintBytes(int64_t{27} << 30), "27.0 GiB");
}

TEST(PlanTest, PrintsEveryNumber) {
  const std::string text = PrintPlan(Plan(Inputs(), {7, 4, 1}));
  EXPECT_THAT(text, HasSubstr("parameters              11\n"));
  EXPECT_THAT(text, HasSubstr("7000 = 7 accumulation x 5 micro-batches x 2 sequences x 100"));
  EXPECT_THAT(text, HasSubstr("4 of 30 tokens"));
  EXPECT_THAT(text, HasSubstr("dp 7 x sp 4 x tp 1 = 28 ranks\n"));
  EXPECT_THAT(text, HasSubstr("1 wavefront of 5 micro-batches\n"));
  EXPECT_THAT(text, HasSubstr("1 slice, 15 units a wavefront\n"));
  EXPECT_THAT(text, HasSubstr("13 on the wrap edge, 2 on the others, each way\n"));
  EXPECT_THAT(text, HasSubstr("busy                    83.3 % of the time\n"));  // 15 / 18
  EXPECT_THAT(text, HasSubstr("optimizer               4 B (a shard of 28)\n"));
  EXPECT_THAT(text, HasSubstr("(9.8 KiB a layer and hop)\n"));
  EXPECT_THAT(text, HasSubstr("workspace               3.0 MiB\n"));
  EXPECT_THAT(text, HasSubstr("slots                   "));
  EXPECT_THAT(text, HasSubstr("process                 5 B\n"));
  EXPECT_THAT(text, HasSubstr(" 6 FLOP a token"));
}

TEST(PlanTest, PrintsThatSpIsAboveWhatPays) {
  PlanInputs in = Inputs();
  in.micro_batches = 1;
  in.accumulation = 1;
  EXPECT_THAT(PrintPlan(Plan(in, {1, 4, 1})),
              HasSubstr("sp = 4 is above layers x micro-batches = 3"));
  EXPECT_THAT(PrintPlan(Plan(in, {1, 3, 1})), testing::Not(HasSubstr("is above")));
}

}  // namespace
}  // namespace mnemo
