#include "src/model/recall_task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace mnemo {
namespace {

TEST(RecallTask, AnswersFollowFromThePairs) {
  const RecallShape shape = CheckRecallShape({}).value();
  EXPECT_EQ(shape.distance(), 32);
  const RecallBatch batch = MakeRecallBatch(shape, 16, 3, 5);
  for (int64_t b = 0; b < 16; ++b) {
    const int32_t* tokens = &batch.tokens[b * shape.length];
    const int32_t* targets = &batch.targets[b * shape.length];
    std::map<int32_t, int32_t> shown;
    int asked = 0;
    for (int64_t t = 0; t < shape.length; ++t) {
      const bool key = tokens[t] < shape.keys;
      if (key && t < shape.shown_until) {
        EXPECT_EQ(shown.count(tokens[t]), 0u) << "a key is shown twice";
        shown[tokens[t]] = tokens[t + 1];
      }
      if (targets[t] < 0) continue;
      ++asked;
      ASSERT_GE(t, shape.asked_from);
      ASSERT_EQ(shown.count(tokens[t]), 1u);
      EXPECT_EQ(targets[t], shown[tokens[t]]);
      EXPECT_EQ(tokens[t + 1], targets[t]);
      EXPECT_GE(targets[t], shape.keys);
      EXPECT_LT(targets[t], shape.keys + shape.values);
    }
    EXPECT_EQ(asked, shape.pairs);
    EXPECT_EQ(shown.size(), static_cast<size_t>(shape.pairs));
  }
}

TEST(RecallTask, BatchesAreAFunctionOfSeedAndStep) {
  const RecallShape shape = CheckRecallShape({}).value();
  EXPECT_EQ(MakeRecallBatch(shape, 4, 1, 2).tokens, MakeRecallBatch(shape, 4, 1, 2).tokens);
  EXPECT_NE(MakeRecallBatch(shape, 4, 1, 2).tokens, MakeRecallBatch(shape, 4, 1, 3).tokens);
  EXPECT_NE(MakeRecallBatch(shape, 4, 1, 2).tokens, MakeRecallBatch(shape, 4, 2, 2).tokens);
}

TEST(RecallTask, RefusesWhatDoesNotFit) {
  RecallShape shape;
  shape.pairs = 20;
  EXPECT_THAT(std::string(CheckRecallShape(shape).status().message()),
              ::testing::HasSubstr("20 pairs do not fit in tokens [0, 32)"));
  shape.pairs = 33;
  EXPECT_THAT(std::string(CheckRecallShape(shape).status().message()),
              ::testing::HasSubstr("33 pairs need as many of the 32 keys"));
}

}  // namespace
}  // namespace mnemo
