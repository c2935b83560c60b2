#include <algorithm>

#include "src/core/cuda/layer_rows.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kHeads = 4;  // of a thread, which share cosines and sines

// A thread has 8 pairs of every `groups`-th head of a token; threads go along a head, then over
// groups and tokens, as the output lies in memory. `sign` is -1 for the inverse, which is also the
// adjoint.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 5 : 4)
    Rotate(RotaryShape s, Divisor lanes, Divisor groups, uint32_t items, const T* x,
           const float* cosines, const float* sines, float sign, T* out) {
  const uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const uint32_t row = lanes.Quotient(item), t = groups.Quotient(row);
  const int64_t first = (item - row * lanes.divisor) * kLane, half = s.head_dim / 2;
  const uint32_t group = row - t * groups.divisor;
  for (int64_t b = blockIdx.y; b < s.batch; b += gridDim.y) {
    const T* from = x + b * s.batch_stride + t * s.token_stride + first;
    T* to = out + (b * s.tokens + t) * s.heads * s.head_dim + first;
    Raw<T> low[kHeads], high[kHeads];
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      const int64_t h = group + i * groups.divisor;
      if (h >= s.heads) continue;
      low[i] = LoadRaw(from + h * s.head_stride);
      high[i] = LoadRaw(from + h * s.head_stride + half);
    }
    const int64_t table = b * s.table_batch_stride + t * half + first;
    const Lane cosine = LoadLane(cosines + table);
    Lane sine = LoadLane(sines + table);
#pragma unroll
    for (float& value : sine.at) value *= sign;
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      const int64_t h = group + i * groups.divisor;
      if (h >= s.heads) continue;
      const Lane from_low = Widen(low[i]), from_high = Widen(high[i]);
      Lane to_low, to_high;
#pragma unroll
      for (int j = 0; j < kLane; ++j) {
        to_low.at[j] = from_low.at[j] * cosine.at[j] - from_high.at[j] * sine.at[j];
        to_high.at[j] = from_high.at[j] * cosine.at[j] + from_low.at[j] * sine.at[j];
      }
      StoreLane(to + h * s.head_dim, to_low);
      StoreLane(to + h * s.head_dim + half, to_high);
    }
  }
}

}  // namespace

void Rotary(const Launch& launch, const RotaryShape& shape, const void* x, const float* cosines,
            const float* sines, bool inverse, void* out) {
  const int64_t lanes = shape.head_dim / 2 / kLane, groups = CeilDivide(shape.heads, kHeads);
  const int64_t items = shape.tokens * groups * lanes;
  if (items == 0 || shape.batch == 0) return;
  if (items > kNarrowCount) MNEMO_CUDA(cudaErrorInvalidValue);  // more than a GPU can hold
  const dim3 blocks(static_cast<unsigned>(CeilDivide(items, kThreads)),
                    static_cast<unsigned>(std::min<int64_t>(shape.batch, 65535)));
  const float sign = inverse ? -1.0f : 1.0f;
  DispatchRows(shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    Rotate<T><<<blocks, kThreads, 0, launch.stream>>>(
        shape, Divisor(static_cast<uint32_t>(lanes)), Divisor(static_cast<uint32_t>(groups)),
        static_cast<uint32_t>(items), static_cast<const T*>(x), cosines, sines, sign,
        static_cast<T*>(out));
  });
  MNEMO_CUDA(cudaGetLastError());
}

}  // namespace mnemo::cuda
