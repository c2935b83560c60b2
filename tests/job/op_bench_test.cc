// BenchModelOps leaves out no fused op and no kind, and counts work as it says. Times are the
// machine's.
#include "src/job/op_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>

#include "src/core/fused_op.h"

namespace mnemo {
namespace {

ModelOpShapes TinyShapes() {
  return {.name = "tiny",
          .batch = 1,
          .length = 8,
          .width = 16,
          .mlp = 24,
          .vocabulary = 32,
          .heads = 2,
          .window = 4,
          .memory_dim = 8,
          .memory_hidden = 16,
          .chunk = 4,
          .vocabulary_tile = 8};
}

int64_t Calls(const FusedCount& count) { return count.kernel + count.composed + count.fallback; }

class OpBenchTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    before_ = FusedCounts();
    BenchModelOps(TinyShapes(), {}, [](const OpTime& op) { ops_.push_back(op); });
  }
  static const OpTime& Named(const std::string& name) {
    for (const OpTime& op : ops_) {
      if (op.name == name) return op;
    }
    ADD_FAILURE() << "no op " << name;
    return ops_.front();
  }

  static std::vector<OpTime> ops_;
  static std::map<std::string, FusedCount> before_;
};
std::vector<OpTime> OpBenchTest::ops_;
std::map<std::string, FusedCount> OpBenchTest::before_;

TEST_F(OpBenchTest, TimesEveryFusedOpAndEveryKind) {
  auto after = FusedCounts();
  for (const FusedOpBase* op : FusedOpBase::All()) {
    EXPECT_GT(Calls(after[op->name()]), Calls(before_[op->name()])) << op->name();
  }
  std::set<OpKind> kinds;
  std::set<std::string> names;
  for (const OpTime& op : ops_) {
    kinds.insert(op.kind);
    EXPECT_TRUE(names.insert(op.name).second) << op.name << " twice";
    EXPECT_GT(op.seconds, 0) << op.name;
    EXPECT_GT(op.bytes, 0) << op.name;
    EXPECT_GE(op.flops, 0) << op.name;
    EXPECT_EQ(op.model, "tiny");
    EXPECT_FALSE(op.shape.empty()) << op.name;
  }
  EXPECT_EQ(kinds.size(), 4u);
}

TEST_F(OpBenchTest, CountsWorkByDefinition) {
  // [8, 16] x [16, 24], all bf16.
  EXPECT_EQ(Named("mlp up").flops, 2.0 * 8 * 16 * 24);
  EXPECT_EQ(Named("mlp up").bytes, 2.0 * (8 * 16 + 16 * 24 + 8 * 24));
  // The sum, f32, is read and written.
  EXPECT_EQ(Named("mlp up, gradient of the weight").flops, 2.0 * 8 * 16 * 24);
  EXPECT_EQ(Named("mlp up, gradient of the weight").bytes,
            2.0 * (8 * 16 + 8 * 24) + 2 * 4.0 * 16 * 24);
  // 8 queries see 1 to 8 keys, 16 features of all heads: two products.
  EXPECT_EQ(Named("attention, forward").flops, 2 * 2.0 * 16 * 36);
  EXPECT_EQ(Named("attention, backward").flops, 5 * 2.0 * 16 * 36);
  EXPECT_EQ(Named("attention, window, forward").flops, 2 * 2.0 * 16 * (1 + 2 + 3 + 4 * 5));
  EXPECT_EQ(Named("attention, forward").bytes, 4 * 2.0 * 8 * 16);
  EXPECT_EQ(Named("swiglu, forward").bytes, 3 * 2.0 * 8 * 24);
  // p, m and v are read and written, g is read.
  EXPECT_EQ(Named("adamw").bytes, 7 * 4.0 * 12 * 16 * 24);
}

TEST(OpTimeTest, IsComparedWithTheLowerRoof) {
  const Ceilings ceilings{100, 10};  // the ridge is at 10 FLOP a byte
  OpTime op;
  op.seconds = 4;
  op.flops = 200, op.bytes = 2;
  EXPECT_DOUBLE_EQ(op.Share(ceilings), 0.5);
  op.flops = 2, op.bytes = 10;
  EXPECT_DOUBLE_EQ(op.Share(ceilings), 0.25);
  op.flops = 0;
  EXPECT_DOUBLE_EQ(op.Share(ceilings), 0.25);
}

}  // namespace
}  // namespace mnemo
