// What the kernels of the small fused ops (layer_kernels.h) cover, and how they are spread over a
// GPU. Plain C++, so that a plan can be made without one.
#pragma once

#include <cstdint>

#include "src/core/dtype.h"

namespace mnemo::cuda {

inline constexpr int kLane = 8;  // features of a thread

// Whether so many features are normalised by a group of threads of one warp.
inline bool IsGroup(int64_t features) {
  return features >= kLane && features <= 32 * kLane && (features & (features - 1)) == 0;
}

// rms_norm over each of `heads` equal parts of a row.
struct NormShape {
  DType dtype = DType::kBF16;
  int64_t rows = 0, width = 0, heads = 1;
  float epsilon = 0;
};
// Parts of 8 to 256 features that are a power of two, or any multiple of 8 up to 4,096.
inline constexpr int kNormWidest = 4096;
bool SupportsNorm(const NormShape& shape);

// How a norm is spread over a GPU. `copies` rows of narrow parts are one row of `width` features.
// Rows are cut into segments, which teams of warps work on: a segment holds the parts of up to
// 1,024 features, or one wide part. A block has teams for one segment of several rows at a time.
inline constexpr int kNormVectors = 4;  // of 8 features, to a lane: at most 1,024 to a warp
inline constexpr int kNormWarps = 4;    // of a block: at most
inline constexpr int kNormForwardBlocks = 6, kNormBackwardBlocks = 3;  // resident at once
struct NormGrid {
  bool group = false;  // narrow parts: several to a segment
  int64_t copies = 1, rows = 0, width = 0;
  int64_t segment = 0, segments = 0;  // features (the last may be shorter); segments of a row
  int64_t team = 1, teams = 1;        // warps of a team, teams of a block
  int64_t blocks = 0;  // of a segment; each leaves its share of the weight's gradient
};
NormGrid NormGridOf(const NormShape& shape, int multiprocessors, int resident_blocks);
// Shares [width] f32 of the weight's gradient that the backward pass leaves.
int64_t NormShares(const NormShape& shape, int multiprocessors);

// L2norm(SiLU(causal depthwise convolution)) with 4 taps, the norm over each of `heads` equal parts
// of a row (parts of 8 to 256 features that are a power of two), or none where heads == 0.
struct ConvShape {
  DType dtype = DType::kBF16;
  int64_t batch = 0, tokens = 0, width = 0, heads = 0;
  float epsilon = 0;
};
inline constexpr int kConvTaps = 4;
bool SupportsConv(const ConvShape& shape);

// How the convolution is spread over a GPU: a warp walks a run of tokens of one sequence, with a
// tile of 256 features.
inline constexpr int kConvWarps = 4;                                   // of a block
inline constexpr int kConvForwardBlocks = 5, kConvBackwardBlocks = 3;  // resident at once
inline constexpr int kConvOverlap = 3;  // tokens that two runs of the backward pass share
struct ConvGrid {
  int64_t tiles = 0;   // of a row
  int64_t run = 0;     // tokens, a multiple of 4
  int64_t runs = 0;    // of a sequence
  int64_t shares = 0;  // of the weight's gradient, [width, 4] f32, which backward leaves
  int64_t blocks = 0;
};
ConvGrid ConvForwardGrid(const ConvShape& shape, int multiprocessors);
ConvGrid ConvBackwardGrid(const ConvShape& shape, int multiprocessors);

}  // namespace mnemo::cuda
