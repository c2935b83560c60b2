// Boxes of tensors: which part of a tensor a rank holds, which part a piece of a checkpoint is.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "src/core/tensor.h"

namespace mnemo {

// The elements [begin, begin + shape) along every dim. Of rank 0: the one element of a scalar.
struct Box {
  Shape begin, shape;
  bool operator==(const Box&) const = default;
};

Box WholeBox(const Shape& shape);
int64_t ElementCount(const Box& box);
std::string ToString(const Box& box);  // "[0, 4) x [2, 8)"; "the scalar" for rank 0

// Whether `box` has the rank of `whole`, is not negative anywhere and lies in it.
bool LiesIn(const Box& box, const Shape& whole);
// What two boxes of one tensor share; nothing if that has no elements.
std::optional<Box> Intersect(const Box& a, const Box& b);
// Elements that come before index `at` of the tensor in `box` stored row-major.
int64_t OffsetIn(const Box& box, const Shape& at);
// Whether the elements of `part`, which lies in `whole`, are one run in `whole` stored row-major.
bool IsContiguousIn(const Box& part, const Box& whole);

// Cuts a box into boxes of at most `limit` elements (at least 1), in the order of their elements;
// each is one run of the row-major box. None for a box without elements.
std::vector<Box> CutIntoRuns(const Box& box, int64_t limit);

// OK if the boxes, all of which lie in `whole`, are disjoint and cover it; else InvalidArgument,
// saying which overlap, or how many elements are missing. Takes time quadratic in the number of
// boxes that share indices of the first dim.
absl::Status CheckCover(std::span<const Box> boxes, const Shape& whole);

// Copies what `from` and `to` share between their row-major contents.
void CopyShared(const Box& from, const char* source, const Box& to, char* target,
                int64_t element_bytes);

}  // namespace mnemo
