// What both directions of the fused convolution (conv_norm.cu, conv_norm_backward.cu) share.
#pragma once

#include "src/core/cuda/row_ring.cuh"

namespace mnemo::cuda::conv {

constexpr int kThreads = 32 * kConvWarps;
constexpr int kTile = 32 * kLane;  // features of a warp
constexpr int kBefore = kConvTaps - 1;

struct Sizes {
  int batch, tokens, width;
  int tiles, run, runs;  // ConvGrid
  int lanes;             // of a part; 0: no norm
  float epsilon;
};

inline Sizes SizesOf(const ConvShape& shape, const ConvGrid& grid) {
  const int64_t lanes = shape.heads == 0 ? 0 : shape.width / shape.heads / kLane;
  const auto narrow = [](int64_t x) { return static_cast<int>(x); };
  return {narrow(shape.batch), narrow(shape.tokens), narrow(shape.width), narrow(grid.tiles),
          narrow(grid.run),    narrow(grid.runs),    narrow(lanes),       shape.epsilon};
}

// Where row u < 0 of a sequence lies among the rows before the sequences [batch, 3, width].
__device__ __forceinline__ int64_t BeforeOffset(const Sizes& s, int sequence, int u) {
  return (int64_t{sequence} * kBefore + kBefore + u) * s.width;
}

// The weight [width, taps] of 8 features.
struct Taps {
  Lane w[kConvTaps];

  __device__ __forceinline__ Taps(const float* weight, int feature, bool here) : w{} {
    if (!here) return;
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const float4 of = reinterpret_cast<const float4*>(weight)[feature + i];
      w[0].at[i] = of.x;
      w[1].at[i] = of.y;
      w[2].at[i] = of.z;
      w[3].at[i] = of.w;
    }
  }
};

// Windows of 4 tokens turn rather than move: the token that is `back` before the k-th of four, with
// k known to the compiler, is in this place.
__device__ __forceinline__ constexpr int PlaceOf(int k, int back) { return (k - back) & 3; }

// Adds row x of the k-th of four tokens to the sums of the token, which are then complete, and of
// the three after it.
__device__ __forceinline__ void AddRow(const Taps& taps, const Lane& x, int k,
                                       Lane (&sums)[kConvTaps]) {
#pragma unroll
  for (int j = 0; j < kConvTaps; ++j) {
    Lane& sum = sums[PlaceOf(k, j - kBefore)];
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      sum.at[i] = fmaf(taps.w[j].at[i], x.at[i], j == 0 ? 0.0f : sum.at[i]);
    }
  }
}

// Calls f(lanes) with a constant for the usual heads of 64 features, 0 for others: Sizes tell.
template <typename F>
void DispatchLanes(const Sizes& sizes, F&& f) {
  if (sizes.lanes == 8) return f(std::integral_constant<int, 8>{});
  f(std::integral_constant<int, 0>{});
}

}  // namespace mnemo::cuda::conv
