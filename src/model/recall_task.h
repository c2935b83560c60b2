// Associative recall: the cheapest end-to-end sign that a memory learns to use its state.
//
// A sequence shows key-value pairs among distractors, then, farther on, asks some of the keys; only
// the answers count. Attention whose window is shorter than the distance cannot answer.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace mnemo {

struct RecallShape {
  int64_t length = 128;     // T
  int pairs = 8;            // pairs shown, all of them asked
  int keys = 32;            // symbols that serve as keys
  int values = 32;          // symbols that serve as values: chance is 1 / values
  int distractors = 64;     // symbols in between
  int64_t shown_until = 0;  // pairs lie in tokens [0, shown_until); 0: length / 4
  int64_t asked_from = 0;   // questions lie in tokens [asked_from, length); 0: length / 2

  int64_t vocabulary() const { return keys + values + distractors; }
  // The fewest tokens between a question and its pair.
  int64_t distance() const;
};

// Fills in the zeros. InvalidArgument if the pairs or questions do not fit.
absl::StatusOr<RecallShape> CheckRecallShape(RecallShape shape);

// A batch of fresh sequences: a pure function of (seed, step).
struct RecallBatch {
  std::vector<int32_t> tokens;   // [B * T]
  std::vector<int32_t> targets;  // [B * T], -1 but for the answers
};
RecallBatch MakeRecallBatch(const RecallShape& shape, int64_t batch, uint64_t seed, uint64_t step);

}  // namespace mnemo
