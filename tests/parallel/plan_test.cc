#include "src/parallel/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  in.token_bytes = 3;
  in.forward_flops_per_token = 2;
  in.model_flops_per_token = 6;
  return in;
}

TEST(PlanTest, CountsTheStep) {
  const v1::StepShape step = MakePlan(Inputs()).step();
  EXPECT_EQ(step.slices(), 4);
  EXPECT_EQ(step.tokens(), 100 * 2 * 5 * 7);
  EXPECT_EQ(step.units(), 4 * 5 * 3);
  EXPECT_EQ(step.parameters(), 11);
}

TEST(PlanTest, UnitsKeepsEveryInputAndCarry) {
  const v1::MemoryEstimate memory = MakePlan(Inputs()).memory();
  EXPECT_EQ(memory.weights(), 1);
  EXPECT_EQ(memory.gradients(), 10);
  EXPECT_EQ(memory.optimizer(), 100);
  // Four slices of five micro-batches, three layers and the head.
  EXPECT_EQ(memory.kept_inputs(), 4 * 5 * (3 + 1) * 1000 + 3 * 5 * 7);
  EXPECT_EQ(memory.carries(), 3 * 5 * 3 * 10000);  // three edges between slices
  EXPECT_EQ(memory.carry_bytes_per_hop(), 10000);
  EXPECT_EQ(memory.tapes(), 0);
  EXPECT_EQ(memory.workspace(), 3 << 20);
  EXPECT_EQ(memory.total(), memory.weights() + memory.gradients() + memory.optimizer() +
                                memory.kept_inputs() + memory.carries() + memory.workspace());
}

TEST(PlanTest, SlicesKeepsTheInputsOfOneSlice) {
  PlanInputs in = Inputs();
  in.rematerialize = v1::SLICES;
  EXPECT_EQ(MakePlan(in).memory().kept_inputs(), (3 + 1) * 1000 + 3 * 5 * 7);
  EXPECT_EQ(MakePlan(in).memory().carries(), 3 * 5 * 3 * 10000);
}

TEST(PlanTest, KeepAllKeepsTapes) {
  PlanInputs in = Inputs();
  in.rematerialize = v1::KEEP_ALL;
  const v1::MemoryEstimate memory = MakePlan(in).memory();
  EXPECT_EQ(memory.tapes(), 4 * 5 * (3 * (1 << 20) + (1 << 18)));
  EXPECT_EQ(memory.kept_inputs(), 3 * 5 * 7);
  EXPECT_EQ(memory.carries(), 0);  // part of the tapes
}

TEST(PlanTest, OneSliceHasNoCarry) {
  PlanInputs in = Inputs();
  in.slice = 100;
  EXPECT_EQ(MakePlan(in).memory().carries(), 0);
}

TEST(PlanTest, WorkCountsWhatRunsAgain) {
  PlanInputs in = Inputs();
  EXPECT_EQ(MakePlan(in).work().run_flops_per_token(), 8);
  in.rematerialize = v1::SLICES;
  EXPECT_EQ(MakePlan(in).work().run_flops_per_token(), 10);
  in.rematerialize = v1::KEEP_ALL;
  EXPECT_EQ(MakePlan(in).work().run_flops_per_token(), 6);
}

TEST(PlanTest, PrintsBytes) {
  EXPECT_EQ(PrintBytes(0), "0 B");
  EXPECT_EQ(PrintBytes(1023), "1023 B");
  EXPECT_EQ(PrintBytes(1536), "1.5 KiB");
  EXPECT_EQ(PrintBytes(int64_t{27} << 30), "27.0 GiB");
}

TEST(PlanTest, PrintsEveryNumber) {
  const std::string text = PrintPlan(MakePlan(Inputs()));
  EXPECT_THAT(text, HasSubstr("parameters              11\n"));
  EXPECT_THAT(text, HasSubstr("7000 = 7 accumulation x 5 micro-batches x 2 sequences x 100"));
  EXPECT_THAT(text, HasSubstr("4 of 30 tokens"));
  EXPECT_THAT(text, HasSubstr("workspace               3.0 MiB\n"));
  EXPECT_THAT(text, HasSubstr(" 6 FLOP a token"));
}

}  // namespace
}  // namespace mnemo
