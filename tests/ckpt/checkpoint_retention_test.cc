#include "src/ckpt/checkpoint_retention.h"

#include <gmock/gmock.h>

#include <cmath>

namespace mnemo {
namespace {

using ::testing::ElementsAre;

CheckpointEntry Entry(int64_t step, std::optional<double> loss = {}) {
  CheckpointEntry entry;
  entry.name.step = step;
  entry.path = ToString(entry.name);
  entry.manifest.mutable_training()->set_step(step);
  if (loss) entry.manifest.mutable_training()->set_evaluation_loss(*loss);
  return entry;
}

CheckpointEntry Bad(int64_t step, CheckpointState state, absl::Status problem) {
  CheckpointEntry entry = Entry(step, 0.0);
  entry.state = state;
  entry.problem = std::move(problem);
  return entry;
}

std::vector<int64_t> Superfluous(const std::vector<CheckpointEntry>& entries,
                                 const RetentionRule& rule) {
  std::vector<int64_t> steps;
  const auto superfluous = FindSuperfluous(entries, rule).value();
  for (const CheckpointEntry* entry : superfluous) steps.push_back(entry->name.step);
  return steps;
}

TEST(CheckpointRetentionTest, WhatAnyPartOfTheRuleNamesStays) {
  const std::vector<CheckpointEntry> entries = {Entry(2, 3.0), Entry(4),      Entry(5, 2.0),
                                                Entry(6, 2.5), Entry(8, 2.1), Entry(9)};
  EXPECT_THAT(Superfluous(entries, {}), ElementsAre(8, 6, 5, 4, 2));
  EXPECT_THAT(Superfluous(entries, {.last = 3}), ElementsAre(5, 4, 2));
  EXPECT_THAT(Superfluous(entries, {.last = 7}), ElementsAre());
  EXPECT_THAT(Superfluous(entries, {.every = 4}), ElementsAre(6, 5, 2));
  EXPECT_THAT(Superfluous(entries, {.best = true}), ElementsAre(8, 6, 4, 2));
  EXPECT_THAT(Superfluous(entries, {.last = 2, .every = 6, .best = true}), ElementsAre(4, 2));
  EXPECT_FALSE(FindSuperfluous(entries, {.last = 0}).ok());
}

TEST(CheckpointRetentionTest, TheBestIsTheNewestWholeOneOfTheLeastFiniteLoss) {
  EXPECT_THAT(
      Superfluous({Entry(1, 2.0), Entry(2, 2.0), Entry(3, std::nan("")), Entry(4)}, {.best = true}),
      ElementsAre(3, 1));
  EXPECT_THAT(Superfluous({Entry(1), Entry(2)}, {.best = true}), ElementsAre(1));
  // A loss of what cannot be loaded saves nothing from going.
  EXPECT_THAT(
      Superfluous({Entry(1, 2.0), Bad(2, CheckpointState::kDamaged, absl::DataLossError("digest")),
                   Entry(3)},
                  {.best = true}),
      ElementsAre());
}

TEST(CheckpointRetentionTest, DamagedOnesAndLeftoversGoOnlyWhenNamed) {
  std::vector<CheckpointEntry> entries = {
      Entry(1), Bad(2, CheckpointState::kDamaged, absl::DataLossError("digest")),
      Bad(3, CheckpointState::kDamaged, absl::UnavailableError("the server does not answer")),
      Bad(4, CheckpointState::kLeftover, absl::NotFoundError("was never finished"))};
  entries.back().name.temporary = true;
  EXPECT_THAT(Superfluous(entries, {}), ElementsAre());
  EXPECT_THAT(Superfluous(entries, {.damaged = true}), ElementsAre(2));  // 3 may be whole
  EXPECT_THAT(Superfluous(entries, {.leftovers = true}), ElementsAre(4));
}

TEST(CheckpointRetentionTest, ARunsRuleIsThatOfItsConfiguration) {
  v1::TrainConfig train;
  EXPECT_EQ(RetentionOf(train).last, 1);  // nothing filled in
  train.set_checkpoint_keep(5);
  train.set_checkpoint_keep_every(1000);
  train.set_checkpoint_keep_best(true);
  const RetentionRule rule = RetentionOf(train);
  EXPECT_EQ(rule.last, 5);
  EXPECT_EQ(rule.every, 1000);
  EXPECT_TRUE(rule.best);
  EXPECT_FALSE(rule.damaged);
}

}  // namespace
}  // namespace mnemo
