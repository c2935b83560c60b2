#include "src/core/cuda/layer_shapes.h"

#include <algorithm>

namespace mnemo::cuda {
namespace {

int64_t DivideUp(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }
int64_t RoundUp(int64_t x, int64_t unit) { return DivideUp(x, unit) * unit; }

bool IsRowType(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF32; }

}  // namespace

bool SupportsNorm(const NormShape& shape) {
  if (shape.width % shape.heads != 0) return false;
  const int64_t part = shape.width / shape.heads;
  return IsRowType(shape.dtype) &&
         (IsGroup(part) || (part % kLane == 0 && part <= int64_t{kNormBlockThreads} * kLane));
}

NormGrid NormGridOf(const NormShape& shape, int multiprocessors) {
  const int64_t part = shape.width / shape.heads;
  NormGrid grid;
  grid.group = IsGroup(part);
  if (grid.group) {
    // Blocks that together hold whole rows.
    const int64_t lanes = shape.width / kLane;
    int64_t unit = lanes;  // blocks whose threads are a multiple of `lanes`
    for (int64_t blocks = 1; blocks < lanes; ++blocks) {
      if (blocks * kNormGroupThreads % lanes == 0) {
        unit = blocks;
        break;
      }
    }
    const int64_t needed = DivideUp(shape.rows * lanes, kNormGroupThreads);
    grid.blocks = RoundUp(std::min(needed, int64_t{8} * multiprocessors), unit);
    grid.threads = kNormGroupThreads;
    grid.shares = grid.blocks * kNormGroupThreads / lanes;
  } else {
    grid.threads = RoundUp(part / kLane, 32);
    const int64_t resident = int64_t{multiprocessors} * (1024 / grid.threads) * 2;
    grid.blocks = RoundUp(std::min(shape.rows * shape.heads, resident), shape.heads);
    grid.shares = grid.blocks / shape.heads;
  }
  return grid;
}

bool SupportsConv(const ConvShape& shape) {
  if (!IsRowType(shape.dtype) || shape.width % kLane != 0) return false;
  if (shape.heads == 0) return true;
  return shape.width % shape.heads == 0 && IsGroup(shape.width / shape.heads);
}

// Enough threads to fill the GPU, and no more shares than that.
int64_t ConvShares(const ConvShape& shape, int multiprocessors) {
  const int64_t runs = shape.batch * DivideUp(shape.tokens, kConvRun);
  return std::min(runs, DivideUp(int64_t{multiprocessors} * 4 * kConvThreads, shape.width / kLane));
}

}  // namespace mnemo::cuda
