#include <cfloat>

#include "src/core/cuda/cross_entropy.h"
#include "src/core/cuda/layer_rows.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;

// A maximum, and the sum of exp(value - maximum) over values seen. Finite from the start, so that
// values of -infinity count as nothing; a NaN among the values makes the sum one.
struct LogSum {
  float maximum = -FLT_MAX, sum = 0;
};

__device__ __forceinline__ LogSum Join(const LogSum& a, const LogSum& b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  return {maximum, a.sum * expf(a.maximum - maximum) + b.sum * expf(b.maximum - maximum)};
}

// Over the block, given to all threads.
__device__ LogSum BlockJoin(LogSum x) {
  __shared__ LogSum shared[kWarps];
  for (int step = 16; step > 0; step /= 2) {
    x = Join(x, {__shfl_xor_sync(~0u, x.maximum, step), __shfl_xor_sync(~0u, x.sum, step)});
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[0];
  for (int i = 1; i < kWarps; ++i) x = Join(x, shared[i]);
  return x;
}

// What is rounded to bf16 needs no better exponential.
template <typename T>
__device__ __forceinline__ float Exp(float x) {
  if constexpr (sizeof(T) == 2) return __expf(x);
  return expf(x);
}

// Of kWidth logits.
template <int kWidth>
__device__ __forceinline__ LogSum LogSumOf(const Pack<float, kWidth>& logits) {
  LogSum here;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) here.maximum = fmaxf(here.maximum, logits.at[j]);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) here.sum += expf(logits.at[j] - here.maximum);
  return here;
}

// A row's loss, by one of its threads.
__device__ __forceinline__ void StoreLoss(const LossGradientCall& call, const float* logits,
                                          int64_t row, int64_t columns, float log_sum) {
  const int64_t target = call.targets[row];
  const float picked = target >= 0 && target < columns ? logits[target] : 0;
  call.losses[row] = target < 0 ? 0 : log_sum - picked;
}

// Of logits from `first` on.
template <int kWidth, typename T>
__device__ __forceinline__ void StoreGradient(T* gradient, const Pack<float, kWidth>& logits,
                                              int64_t first, int64_t target, float log_sum,
                                              float scale) {
  Pack<T, kWidth> out;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    float value = target < 0 ? 0 : scale * Exp<T>(logits.at[j] - log_sum);
    if (first + j == target) value -= scale;
    out.at[j] = Convert<T>(value);
  }
  StorePack<kWidth>(gradient + first, out);
}

// A block has a row of logits, kWidth of them at a time, and reads it twice.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kThreads)
    LossKernel(LogitRows rows, LossGradientCall call, T* gradients) {
  const int64_t row = blockIdx.x;
  const float* logits = rows.logits + row * rows.columns;
  LogSum own;
  for (int64_t i = threadIdx.x * kWidth; i < rows.columns; i += kThreads * kWidth) {
    own = Join(own, LogSumOf<kWidth>(LoadPack<kWidth>(logits + i)));
  }
  own = BlockJoin(own);
  const float log_sum = own.maximum + logf(own.sum);
  if (threadIdx.x == 0) StoreLoss(call, logits, row, rows.columns, log_sum);
  for (int64_t i = threadIdx.x * kWidth; i < rows.columns; i += kThreads * kWidth) {
    StoreGradient<kWidth>(gradients + row * rows.columns, LoadPack<kWidth>(logits + i), i,
                          call.targets[row], log_sum, call.scale);
  }
}

// The same for a row that the block's registers hold, so that it is read once.
constexpr int kKeptPacks = 4, kKeptWidth = 8;
constexpr int64_t kKeptColumns = int64_t{kThreads} * kKeptPacks * kKeptWidth;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    KeptLossKernel(LogitRows rows, LossGradientCall call, T* gradients) {
  const int64_t row = blockIdx.x;
  const float* logits = rows.logits + row * rows.columns;
  Pack<float, kKeptWidth> kept[kKeptPacks];
  LogSum own;
#pragma unroll
  for (int k = 0; k < kKeptPacks; ++k) {
    const int64_t i = (k * kThreads + threadIdx.x) * int64_t{kKeptWidth};
    if (i < rows.columns) {
      kept[k] = LoadPack<kKeptWidth>(logits + i);
      own = Join(own, LogSumOf<kKeptWidth>(kept[k]));
    }
  }
  own = BlockJoin(own);
  const float log_sum = own.maximum + logf(own.sum);
  if (threadIdx.x == 0) StoreLoss(call, logits, row, rows.columns, log_sum);
#pragma unroll
  for (int k = 0; k < kKeptPacks; ++k) {
    const int64_t i = (k * kThreads + threadIdx.x) * int64_t{kKeptWidth};
    if (i < rows.columns) {
      StoreGradient<kKeptWidth>(gradients + row * rows.columns, kept[k], i, call.targets[row],
                                log_sum, call.scale);
    }
  }
}

}  // namespace

void LossAndGradient(const Launch& launch, const LogitRows& rows, const LossGradientCall& call) {
  if (rows.rows == 0) return;
  DispatchRows(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* gradient = static_cast<T*>(call.gradient);
    const auto blocks = static_cast<unsigned>(rows.rows);
    if (rows.columns % kKeptWidth == 0 && rows.columns <= kKeptColumns) {
      KeptLossKernel<<<blocks, kThreads, 0, launch.stream>>>(rows, call, gradient);
    } else if (rows.columns % 8 == 0) {
      LossKernel<8><<<blocks, kThreads, 0, launch.stream>>>(rows, call, gradient);
    } else {
      LossKernel<1><<<blocks, kThreads, 0, launch.stream>>>(rows, call, gradient);
    }
    MNEMO_CUDA(cudaGetLastError());
  });
}

}  // namespace mnemo::cuda
