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
bool SupportsNorm(const NormShape& shape);

// How a norm is launched: blocks of threads, and how many shares [width] f32 of the weight's
// gradient they leave.
inline constexpr int kNormGroupThreads = 256, kNormBlockThreads = 512;  // the latter: at most
struct NormGrid {
  bool group = false;
  int64_t blocks = 0, threads = 0, shares = 0;
};
NormGrid NormGridOf(const NormShape& shape, int multiprocessors);

// L2norm(SiLU(causal depthwise convolution)) with 4 taps, the norm over each of `heads` equal parts
// of a row (parts of 8 to 256 features that are a power of two), or none where heads == 0.
struct ConvShape {
  DType dtype = DType::kBF16;
  int64_t batch = 0, tokens = 0, width = 0, heads = 0;
  float epsilon = 0;
};
inline constexpr int kConvTaps = 4;
inline constexpr int kConvRun = 16, kConvThreads = 128;  // tokens of a thread, threads of a block
bool SupportsConv(const ConvShape& shape);
// Shares [width, 4] f32 of the weight's gradient that the backward pass leaves.
int64_t ConvShares(const ConvShape& shape, int multiprocessors);

}  // namespace mnemo::cuda
