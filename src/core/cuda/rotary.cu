#include "src/core/cuda/layer_rows.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256;

// One thread 8 pairs; threads go along a head, then over heads, tokens and sequences, as the output
// lies in memory. `sign` is -1 for the inverse, which is also the adjoint.
template <typename T>
__global__ void __launch_bounds__(kThreads) Rotate(RotaryShape s, const T* x, const float* cosines,
                                                   const float* sines, float sign, T* out) {
  const int64_t half = s.head_dim / 2, lanes = half / kLane;
  const int64_t total = s.batch * s.tokens * s.heads * lanes;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < total;
       i += gridDim.x * int64_t{kThreads}) {
    const int64_t first = i % lanes * kLane, row = i / lanes;
    const int64_t h = row % s.heads, bt = row / s.heads;
    const int64_t t = bt % s.tokens, b = bt / s.tokens;
    const T* from = x + b * s.batch_stride + h * s.head_stride + t * s.token_stride + first;
    const int64_t table = b * s.table_batch_stride + t * half + first;
    const Lane low = LoadLane(from), high = LoadLane(from + half);
    const Lane cosine = LoadLane(cosines + table), sine = LoadLane(sines + table);
    Lane to_low, to_high;
#pragma unroll
    for (int j = 0; j < kLane; ++j) {
      const float turn = sign * sine.at[j];
      to_low.at[j] = low.at[j] * cosine.at[j] - high.at[j] * turn;
      to_high.at[j] = high.at[j] * cosine.at[j] + low.at[j] * turn;
    }
    T* to = out + row * s.head_dim + first;
    StoreLane(to, to_low);
    StoreLane(to + half, to_high);
  }
}

}  // namespace

void Rotary(const Launch& launch, const RotaryShape& shape, const void* x, const float* cosines,
            const float* sines, bool inverse, void* out) {
  const int64_t total = shape.batch * shape.tokens * shape.heads * (shape.head_dim / 2 / kLane);
  if (total == 0) return;
  const unsigned blocks = Blocks(launch, total, kThreads);
  const float sign = inverse ? -1.0f : 1.0f;
  if (shape.dtype == DType::kBF16) {
    Rotate<<<blocks, kThreads, 0, launch.stream>>>(shape, static_cast<const BFloat16*>(x), cosines,
                                                   sines, sign, static_cast<BFloat16*>(out));
  } else {
    Rotate<<<blocks, kThreads, 0, launch.stream>>>(shape, static_cast<const float*>(x), cosines,
                                                   sines, sign, static_cast<float*>(out));
  }
  MNEMO_CUDA(cudaGetLastError());
}

}  // namespace mnemo::cuda
