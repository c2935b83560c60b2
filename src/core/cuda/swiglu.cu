#include "src/core/cuda/layer_rows.cuh"

// y = a s b with s = 1 / (1 + exp(-a)): grad_a = grad_y b s (1 + a (1 - s)), grad_b = grad_y a s.
namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) Forward(int64_t vectors, const T* a, const T* b, T* y) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < vectors;
       i += gridDim.x * int64_t{kThreads}) {
    const Lane left = LoadLane(a + i * kLane), right = LoadLane(b + i * kLane);
    Lane out;
#pragma unroll
    for (int j = 0; j < kLane; ++j) {
      out.at[j] = left.at[j] * QuickSigmoid(left.at[j]) * right.at[j];
    }
    StoreLane(y + i * kLane, out);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    Backward(int64_t vectors, const T* a, const T* b, const T* grad_y, T* grad_a, T* grad_b) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < vectors;
       i += gridDim.x * int64_t{kThreads}) {
    const Lane left = LoadLane(a + i * kLane), right = LoadLane(b + i * kLane);
    const Lane dy = LoadLane(grad_y + i * kLane);
    Lane da, db;
#pragma unroll
    for (int j = 0; j < kLane; ++j) {
      const float x = left.at[j], s = QuickSigmoid(x);
      da.at[j] = dy.at[j] * right.at[j] * s * (1 + x * (1 - s));
      db.at[j] = dy.at[j] * x * s;
    }
    StoreLane(grad_a + i * kLane, da);
    StoreLane(grad_b + i * kLane, db);
  }
}

}  // namespace

void SwiGlu(const Launch& launch, DType dtype, int64_t count, const void* a, const void* b,
            void* y) {
  if (count == 0) return;
  DispatchRows(dtype, [&](auto zero) {
    using T = decltype(zero);
    Forward<T><<<Blocks(launch, count / kLane, kThreads), kThreads, 0, launch.stream>>>(
        count / kLane, static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(y));
  });
  MNEMO_CUDA(cudaGetLastError());
}

void SwiGluBackward(const Launch& launch, DType dtype, int64_t count, const void* a, const void* b,
                    const void* grad_y, void* grad_a, void* grad_b) {
  if (count == 0) return;
  DispatchRows(dtype, [&](auto zero) {
    using T = decltype(zero);
    Backward<T><<<Blocks(launch, count / kLane, kThreads), kThreads, 0, launch.stream>>>(
        count / kLane, static_cast<const T*>(a), static_cast<const T*>(b),
        static_cast<const T*>(grad_y), static_cast<T*>(grad_a), static_cast<T*>(grad_b));
  });
  MNEMO_CUDA(cudaGetLastError());
}

}  // namespace mnemo::cuda
