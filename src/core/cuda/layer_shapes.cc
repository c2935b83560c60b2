#include "src/core/cuda/layer_shapes.h"

#include <algorithm>

namespace mnemo::cuda {
namespace {

int64_t DivideUp(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }
int64_t RoundUp(int64_t x, int64_t unit) { return DivideUp(x, unit) * unit; }

bool IsRowType(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF32; }

// Runs of `rows` rows to a sequence, for a GPU that holds so many blocks at once: as long as they
// can be while all are at work, since each begins with rows of the run before.
ConvGrid ConvGridOf(const ConvShape& shape, int64_t rows, int64_t resident) {
  constexpr int64_t kShortest = 16, kLongest = 128;
  ConvGrid grid;
  if (shape.batch == 0 || shape.tokens == 0 || shape.width == 0) return grid;
  grid.tiles = DivideUp(shape.width, 32 * kLane);
  const int64_t chains = shape.batch * grid.tiles, warps = resident * kConvWarps;
  const int64_t rounds = DivideUp(chains * rows, warps * kLongest);
  const int64_t most = std::max<int64_t>(warps * rounds / chains, 1);  // runs of a sequence
  grid.run = std::clamp(RoundUp(DivideUp(rows, most), 4), kShortest, kLongest);
  grid.runs = DivideUp(rows, grid.run);
  return grid;
}

constexpr int64_t kLongestSequence = int64_t{1} << 30;  // tokens are counted in 32 bits

}  // namespace

bool SupportsNorm(const NormShape& shape) {
  if (shape.width % shape.heads != 0) return false;
  const int64_t part = shape.width / shape.heads;
  return IsRowType(shape.dtype) && (IsGroup(part) || (part % kLane == 0 && part <= kNormWidest));
}

NormGrid NormGridOf(const NormShape& shape, int multiprocessors, int resident_blocks) {
  constexpr int64_t kWarp = 32 * kLane, kMost = kWarp * kNormVectors;  // features of a warp
  const int64_t part = shape.width / shape.heads;
  NormGrid grid;
  grid.group = IsGroup(part);
  grid.width = shape.width;
  if (grid.group) {
    grid.copies = std::max<int64_t>(kMost / shape.width, 1);
    grid.width *= grid.copies;
    // Even segments, of whole parts.
    grid.segment = RoundUp(DivideUp(grid.width, DivideUp(grid.width, kMost)), kWarp);
  } else {
    grid.segment = part;
    grid.team = DivideUp(part, kMost);
  }
  grid.rows = DivideUp(shape.rows, grid.copies);
  grid.segments = DivideUp(grid.width, grid.segment);
  grid.teams = kNormWarps / grid.team;
  const int64_t resident = int64_t{multiprocessors} * resident_blocks;
  grid.blocks =
      std::min(DivideUp(grid.rows, grid.teams), std::max<int64_t>(resident / grid.segments, 1));
  return grid;
}

int64_t NormShares(const NormShape& shape, int multiprocessors) {
  return NormGridOf(shape, multiprocessors, kNormBackwardBlocks).blocks;
}

bool SupportsConv(const ConvShape& shape) {
  if (!IsRowType(shape.dtype) || shape.width % kLane != 0) return false;
  if (shape.tokens > kLongestSequence) return false;
  if (shape.heads == 0) return true;
  return shape.width % shape.heads == 0 && IsGroup(shape.width / shape.heads);
}

ConvGrid ConvForwardGrid(const ConvShape& shape, int multiprocessors) {
  ConvGrid grid = ConvGridOf(shape, shape.tokens, int64_t{multiprocessors} * kConvForwardBlocks);
  grid.blocks = DivideUp(grid.runs * shape.batch * grid.tiles, kConvWarps);
  return grid;
}

ConvGrid ConvBackwardGrid(const ConvShape& shape, int multiprocessors) {
  ConvGrid grid = ConvGridOf(shape, shape.tokens + kConvOverlap,
                             int64_t{multiprocessors} * kConvBackwardBlocks);
  grid.shares = DivideUp(grid.runs * shape.batch, kConvWarps);
  grid.blocks = grid.shares * grid.tiles;
  return grid;
}

}  // namespace mnemo::cuda
