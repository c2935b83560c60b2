#include "src/core/cuda/cross_entropy.h"
#include "src/core/cuda/layer_rows.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = static_cast<int>(kMaxTileColumns) / kThreads;

// Over the block, given to all threads. `shared` holds a value for each warp.
template <typename F>
__device__ __forceinline__ float BlockReduce(float x, float* shared, F&& combine) {
  for (int step = 16; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(~0u, x, step));
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[0];
  for (int i = 1; i < kThreads / 32; ++i) x = combine(x, shared[i]);
  return x;
}

// A block has a row.
__global__ void __launch_bounds__(kThreads) UpdateKernel(LogitTile tile, LogSumCall call) {
  __shared__ float shared[kThreads / 32];
  const int64_t row = blockIdx.x;
  const float* logits = tile.logits + row * tile.columns;
  float values[kPerThread], largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int column = i * kThreads + threadIdx.x;
    values[i] = column < tile.columns ? logits[column] : -INFINITY;
    // A NaN must come through: fmaxf would drop it.
    largest = values[i] > largest || values[i] != values[i] ? values[i] : largest;
  }
  largest = BlockReduce(largest, shared, [](float a, float b) { return a > b || a != a ? a : b; });
  const float before = tile.first ? -INFINITY : call.maxima[row];
  const float maximum = before > largest || before != before ? before : largest;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) sum += expf(values[i] - maximum);
  sum = BlockReduce(sum, shared, [](float a, float b) { return a + b; });
  if (threadIdx.x != 0) return;
  const float total = tile.first ? sum : call.sums[row] * expf(before - maximum) + sum;
  call.maxima[row] = maximum;
  call.sums[row] = total;
  const int64_t target = call.targets[row] - tile.first_column;
  if (call.targets[row] >= 0 && target >= 0 && target < tile.columns) {
    call.picked[row] = logits[target];
  } else if (tile.first) {
    call.picked[row] = 0;
  }
  if (tile.last) call.log_sums[row] = maximum + logf(total);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    GradientKernel(LogitTile tile, LogitGradientCall call, T* gradient) {
  const int64_t row = blockIdx.x;
  const float log_sum = call.log_sums[row], scale = call.grad_log_sums[row];
  const int64_t target = call.targets[row] < 0 ? -1 : call.targets[row] - tile.first_column;
  for (int64_t column = threadIdx.x; column < tile.columns; column += kThreads) {
    const int64_t i = row * tile.columns + column;
    float value = scale * expf(tile.logits[i] - log_sum);
    if (column == target) value += call.grad_picked[row];
    gradient[i] = Convert<T>(value);
  }
}

}  // namespace

void UpdateLogSums(const Launch& launch, const LogitTile& tile, const LogSumCall& call) {
  if (tile.rows == 0) return;
  UpdateKernel<<<static_cast<unsigned>(tile.rows), kThreads, 0, launch.stream>>>(tile, call);
  MNEMO_CUDA(cudaGetLastError());
}

void LogitGradient(const Launch& launch, const LogitTile& tile, const LogitGradientCall& call) {
  if (tile.rows == 0) return;
  if (call.dtype == DType::kBF16) {
    GradientKernel<<<static_cast<unsigned>(tile.rows), kThreads, 0, launch.stream>>>(
        tile, call, static_cast<BFloat16*>(call.gradient));
  } else {
    GradientKernel<<<static_cast<unsigned>(tile.rows), kThreads, 0, launch.stream>>>(
        tile, call, static_cast<float*>(call.gradient));
  }
  MNEMO_CUDA(cudaGetLastError());
}

}  // namespace mnemo::cuda
