// The memory scan's benchmark: what it times is the op on the rule that it names, and the work that
// speeds are computed from is that of the rule and of the kernels.
#include "src/job/memory_scan_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "src/core/fused_op.h"

namespace mnemo {
namespace {

using testing::ElementsAre;

constexpr double kKiB = 1024;

TEST(MemoryScanBenchTest, NamesTellShapesApart) {
  std::set<std::string> names;
  for (const MemoryScanCase& scan : LargeMemoryScans()) names.insert(Name(scan));
  EXPECT_EQ(names.size(), LargeMemoryScans().size());
  MemoryScanCase scan{{}, 4, 16, 8192};
  EXPECT_EQ(Name(scan), "chunk 64, B4 T8192");
  scan.rule.depth = 1, scan.rule.layer_norm = false, scan.rule.momentum = false;
  EXPECT_EQ(Name(scan), "depth 1, no momentum, chunk 64, B4 T8192");
}

TEST(MemoryScanBenchTest, WorkIsThatOfTheRuleAndOfTheKernels) {
  const MemoryScanCase scan{{}, 4, 16, 8192};
  const double rows = 4.0 * 16 * 8192, bytes_of_rows = rows * 64 * 2;
  const MemoryScanWork least = LeastWork(scan), kernel = KernelWork(scan);
  EXPECT_EQ(least.forward.flops, rows * (88 * 64 * 64 + 20 * 64 * 64));
  EXPECT_EQ(least.backward.flops, 2 * least.forward.flops);
  EXPECT_EQ(least.forward.bytes, 4 * bytes_of_rows + rows * 3 * 4);
  EXPECT_EQ(kernel.forward.flops, least.forward.flops);
  // Of each of the 8,192 blocks: W and S in bf16, written and read.
  EXPECT_EQ(kernel.forward.bytes, 8192 * 2 * 128 * kKiB + 6 * bytes_of_rows);
  EXPECT_GT(kernel.backward.bytes, 1.5 * kernel.forward.bytes);
}

TEST(MemoryScanBenchTest, WhatNoKernelCoversHasTheBytesOfItsRows) {
  MemoryScanCase scan;
  scan.rule.head_dim = 96;
  EXPECT_EQ(KernelWork(scan).backward.bytes, LeastWork(scan).backward.bytes);
}

TEST(MemoryScanBenchTest, TimesTheOpOnEveryKindOfRule) {
  MemoryScanCase deep, flat;
  for (MemoryScanCase* scan : {&deep, &flat}) {
    scan->batch = 2, scan->heads = 2, scan->tokens = 8;
    scan->rule.head_dim = 4, scan->rule.hidden = 8, scan->rule.chunk = 4;
  }
  deep.rule.activation = MemoryActivation::kGelu;
  flat.rule.depth = 1, flat.rule.layer_norm = flat.rule.residual = false;
  flat.rule.momentum = false, flat.rule.forgetting = Forgetting::kNever;
  for (const MemoryScanCase& scan : {deep, flat}) {
    const int64_t before = FusedCounts()["memory_scan"].composed;
    std::vector<OpTime> ops;
    const ReportOp report = [&](const OpTime& op) { ops.push_back(op); };
    OpTimer timer({}, "", report);
    TimeMemoryScan("scan", scan, {{1, 2}, {3, 4}, {5, 6}}, timer);
    ASSERT_EQ(ops.size(), 3u);
    EXPECT_THAT(
        (std::vector{ops[0].name, ops[1].name, ops[2].name}),
        ElementsAre("scan, forward", "scan, backward", "scan, forward and backward at once"));
    EXPECT_THAT((std::vector{ops[0].flops, ops[0].bytes, ops[1].flops, ops[1].bytes, ops[2].flops,
                             ops[2].bytes}),
                ElementsAre(1, 2, 3, 4, 5, 6));
    EXPECT_EQ(ops[0].shape, "[2, 2, 8, 4]");
    EXPECT_GT(ops[0].seconds, 0);
    EXPECT_GT(ops[1].seconds, 0);
    EXPECT_GT(ops[2].seconds, 0);
    EXPECT_TRUE(ops[0].composed);
    EXPECT_GT(FusedCounts()["memory_scan"].composed, before);
  }
}

}  // namespace
}  // namespace mnemo
