// What the kernels of depth 1 share: W_0, the clamp and the layer norm on a warpgroup's rows.
#pragma once

#include "src/core/cuda/memory/memory_rows.cuh"
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {

// A thread's part of W_0 or its gradient, eight fours 128 apart.
template <typename T>
__device__ inline auto flat_initial_at(T* base, int owner) {
  return initial_at(base + int64_t{owner} * kTileElements, 0, 0, 0);
}

// x += scale W_0 of the head, or x = W_0.
__device__ inline void add_flat_initial(const Options& o, int head, float scale, Acc& x) {
  const float4* from = flat_initial_at(o.initial, head);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 v = from[128 * j];
    x[4 * j] = fmaf(scale, v.x, x[4 * j]), x[4 * j + 1] = fmaf(scale, v.y, x[4 * j + 1]);
    x[4 * j + 2] = fmaf(scale, v.z, x[4 * j + 2]), x[4 * j + 3] = fmaf(scale, v.w, x[4 * j + 3]);
  }
}

// |x|^2 of this thread's two rows.
__device__ inline void row_squares(float (&sum)[2], const Frag& x) {
  sum[0] = sum[1] = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(x[i]);
    sum[i & 1] = fmaf(v.x, v.x, fmaf(v.y, v.y, sum[i & 1]));
  }
  sum[0] = quad_sum(sum[0]), sum[1] = quad_sum(sum[1]);
}

// [batch * heads] -> this head's gain or bias, threads 0 .. 63.
__device__ inline void load_norm(float* gain, float* bias, const CommonParams& p, int head) {
  if (threadIdx.x >= kTile) return;
  gain[threadIdx.x] = p.gain[head * kTile + threadIdx.x];
  bias[threadIdx.x] = p.bias[head * kTile + threadIdx.x];
}

// x: the network's outputs, normalised -> gain times their errors.
__device__ inline void scaled_errors(Acc& x, const bf16* k, const bf16* v, const float* gain,
                                     const float* bias, float residual) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 g = *reinterpret_cast<const float2*>(gain + 8 * j + col);
    const float2 b = *reinterpret_cast<const float2*>(bias + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 key = tile_pair(k, row + 8 * i, 8 * j + col);
      const float2 value = tile_pair(v, row + 8 * i, 8 * j + col);
      float &lo = x[4 * j + 2 * i], &hi = x[4 * j + 2 * i + 1];
      lo = g.x * (fmaf(g.x, lo, b.x) + fmaf(residual, key.x, -value.x));
      hi = g.y * (fmaf(g.y, hi, b.y) + fmaf(residual, key.y, -value.y));
    }
  }
}

// x: the network's outputs -> their deltas. What the norm's adjoint needs stays in xhat and r.
__device__ inline void norm_deltas(Acc& x, Acc& xhat, float (&r)[2], const bf16* k, const bf16* v,
                                   const float* gain, const float* bias, float residual,
                                   float epsilon) {
  normalize(x, epsilon, r);
#pragma unroll
  for (int i = 0; i < 32; ++i) xhat[i] = x[i];
  scaled_errors(x, k, v, gain, bias, residual);
  project(x, xhat, r);
}

// Calls f with what a kernel is compiled for: std::bool_constants of options and norm.
template <typename F>
void with_flat_instance(const CommonParams& p, const F& f) {
  const auto with_norm = [&](auto options) {
    if (p.gain != nullptr) {
      f(options, std::true_type{});
    } else {
      f(options, std::false_type{});
    }
  };
  if (p.options.on) {
    with_norm(std::true_type{});
  } else {
    with_norm(std::false_type{});
  }
}

}  // namespace mnemo::memory
