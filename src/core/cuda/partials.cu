#include "src/core/cuda/layer_rows.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kColumns = 32, kRows = 32;

// A block has 32 columns; each of its rows of threads adds up every 32nd row, in order.
__global__ void __launch_bounds__(kColumns* kRows)
    Sum(const float* partials, int64_t rows, int64_t columns, float* out) {
  __shared__ float shared[kRows][kColumns + 1];
  const int64_t column = blockIdx.x * int64_t{kColumns} + threadIdx.x;
  float sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (int64_t row = threadIdx.y; row < rows; row += kRows)
      sum += partials[row * columns + column];
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  // A tree over the rows of threads: transposed, so that a warp has one column.
  sum = GroupSum(shared[threadIdx.x][threadIdx.y], 32);
  const int64_t own = blockIdx.x * int64_t{kColumns} + threadIdx.y;
  if (threadIdx.x == 0 && own < columns) out[own] = sum;
}

}  // namespace

void SumPartials(const Launch& launch, const float* partials, int64_t rows, int64_t columns,
                 float* out) {
  if (columns == 0) return;
  Sum<<<static_cast<unsigned>(CeilDivide(columns, kColumns)), dim3(kColumns, kRows), 0,
        launch.stream>>>(partials, rows, columns, out);
  MNEMO_CUDA(cudaGetLastError());
}

}  // namespace mnemo::cuda
