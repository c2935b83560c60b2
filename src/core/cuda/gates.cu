#include "src/core/cuda/gate_kernels.h"
#include "src/core/cuda/layer_rows.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256;
static_assert(kGateRows % 32 == 0);

// What bf16 leaves of x.
__device__ __forceinline__ float Rest(float x) { return x - Value(Convert<BFloat16>(x)); }

// A thread cuts 8 neighbours of a weight.
__global__ void __launch_bounds__(kThreads)
    SplitKernel(const __grid_constant__ GateShape s, const __grid_constant__ GateSplitCall call,
                int64_t columns) {
  const int64_t at = (blockIdx.x * int64_t{kThreads} + threadIdx.x) * kLane;
  if (at >= columns * s.width) return;
  const int64_t column = at / s.width, gate = column / s.heads;
  Lane w = {}, low;
  if (gate < s.gates) w = LoadLane(call.weights[gate] + at - gate * s.heads * s.width);
#pragma unroll
  for (int i = 0; i < kLane; ++i) low.at[i] = Rest(w.at[i]);
  BFloat16* out = static_cast<BFloat16*>(call.out) + at;
  StoreLane(out, w);
  StoreLane(out + columns * s.width, low);
  if (call.copies == 3) StoreLane(out + 2 * columns * s.width, w);
}

// Where head h of token t of sequence b lies in [B, H, T], for row b T + t.
struct Place {
  int64_t first, step;
};
__device__ __forceinline__ Place PlaceOf(const GateShape& s, int64_t row) {
  return {row / s.tokens * s.heads * s.tokens + row % s.tokens, s.tokens};
}

// A thread has a row: neighbours read lines that the cache holds until all columns are through, and
// write next to each other.
__global__ void __launch_bounds__(kGateRows)
    ValuesKernel(const __grid_constant__ GateShape s, const __grid_constant__ GateValuesCall call,
                 int64_t columns) {
  const int64_t row = blockIdx.x * int64_t{kGateRows} + threadIdx.x;
  if (row >= s.rows()) return;
  const Place place = PlaceOf(s, row);
  const float* products = call.products + row * 2 * columns;
  int gate = 0;
  int64_t head = 0;
  for (int64_t column = 0; column < columns; column += kLane) {
    const Lane upper = LoadLane(products + column), lower = LoadLane(products + columns + column);
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (gate >= s.gates) break;
      const float z = upper.at[i] + lower.at[i] + call.biases[gate][head];
      call.gates[gate][place.first + head * place.step] = call.maxima[gate] * Sigmoid(z);
      if (++head == s.heads) head = 0, ++gate;
    }
  }
}

// z' = grad_g g (1 - g / maximum). A thread has a row, a warp adds up its rows.
__global__ void __launch_bounds__(kGateRows)
    GradientsKernel(const __grid_constant__ GateShape s,
                    const __grid_constant__ GateGradientsCall call, int64_t columns) {
  __shared__ float sums[kGateRows / 32][kLane];
  const int64_t row = blockIdx.x * int64_t{kGateRows} + threadIdx.x;
  const bool here = row < s.rows();
  const Place place = PlaceOf(s, here ? row : 0);
  BFloat16* out = static_cast<BFloat16*>(call.out) + row * 3 * columns;
  int gate = 0;
  int64_t head = 0;
  for (int64_t column = 0; column < columns; column += kLane) {
    Lane z = {}, low = {};
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (gate < s.gates) {
        const int64_t at = place.first + head * place.step;
        if (here) {
          const float g = call.gates[gate][at], maximum = call.maxima[gate];
          const float share = maximum > 0 ? g / maximum : 0;
          z.at[i] = call.gradients[gate][at] * g * (1 - share);
          low.at[i] = Rest(z.at[i]);
        }
        if (++head == s.heads) head = 0, ++gate;
      }
      const float sum = GroupSum(z.at[i], 32);
      if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32][i] = sum;
    }
    if (here) {
      StoreLane(out + column, z);
      StoreLane(out + columns + column, z);
      StoreLane(out + 2 * columns + column, low);
    }
    __syncthreads();
    if (threadIdx.x < kLane) {
      float sum = 0;
#pragma unroll
      for (int warp = 0; warp < kGateRows / 32; ++warp) sum += sums[warp][threadIdx.x];
      call.shares[blockIdx.x * columns + column + threadIdx.x] = sum;
    }
    __syncthreads();
  }
}

unsigned BlocksOf(const GateShape& shape) { return static_cast<unsigned>(shape.shares()); }

}  // namespace

void SplitGateWeights(const Launch& launch, const GateShape& shape, const GateSplitCall& call) {
  const int64_t columns = shape.columns(), threads = columns * shape.width / kLane;
  SplitKernel<<<static_cast<unsigned>(CeilDivide(threads, kThreads)), kThreads, 0, launch.stream>>>(
      shape, call, columns);
  MNEMO_CUDA(cudaGetLastError());
}

void GateValues(const Launch& launch, const GateShape& shape, const GateValuesCall& call) {
  ValuesKernel<<<BlocksOf(shape), kGateRows, 0, launch.stream>>>(shape, call, shape.columns());
  MNEMO_CUDA(cudaGetLastError());
}

void GateGradients(const Launch& launch, const GateShape& shape, const GateGradientsCall& call) {
  GradientsKernel<<<BlocksOf(shape), kGateRows, 0, launch.stream>>>(shape, call, shape.columns());
  MNEMO_CUDA(cudaGetLastError());
}

}  // namespace mnemo::cuda
