// What the kernels of the cross-entropies cover and hold of the logits: for the ops and for plans
// without a GPU. Plain C++.
#pragma once

#include <algorithm>
#include <cstdint>

#include "src/core/dtype.h"

namespace mnemo::cuda {

inline bool SupportsCrossEntropy(DType x, DType head) {
  return (x == DType::kBF16 || x == DType::kF32) && head == x;
}

// A tile of logits of the op that keeps none: 32 MiB at most.
inline constexpr int64_t kLogitTileRows = 2048, kMaxTileColumns = 4096;

// Rows of logits that the op with gradients has at a time, of `columns` each: as many as fit into
// 512 MiB, and some in any case. Long enough that the products of a piece fill the GPU, small
// beside what a step of so many rows keeps.
inline int64_t PieceOfLogits(int64_t rows, int64_t columns) {
  constexpr int64_t kBytes = int64_t{512} << 20, kFewest = 128;
  const int64_t fit = kBytes / (columns * int64_t{sizeof(float)}) / kFewest * kFewest;
  return std::min(rows, std::max(kFewest, fit));
}

}  // namespace mnemo::cuda
