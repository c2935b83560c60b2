#include <algorithm>

#include "src/core/cuda/totals.cuh"

namespace mnemo::cuda {
namespace {

constexpr int64_t kPiece = 32768;  // elements to a block
constexpr int kBatch = 512;        // arrays to a launch: they travel as a kernel's argument

struct Arrays {
  const void* data[kBatch];
  int64_t elements[kBatch];
  int64_t first_piece[kBatch + 1];  // the pieces of array i begin there
  int count;
};

template <int V, typename T>
__device__ __forceinline__ double SquaresOf(const T* x, int n) {
  double sum = 0;
  const int packs = n / V;
#pragma unroll 4
  for (int i = threadIdx.x; i < packs; i += kBlockThreads) {
    const Pack<T, V> pack = LoadPack<V>(x + i * V);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const double value = Convert<double>(pack.at[v]);
      sum = fma(value, value, sum);
    }
  }
  const int rest = packs * V + static_cast<int>(threadIdx.x);  // fewer than V are left
  if (V > 1 && rest < n) {
    const double value = Convert<double>(x[rest]);
    sum = fma(value, value, sum);
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads)
    squared_pieces_kernel(const __grid_constant__ Arrays arrays, double* parts) {
  const int64_t piece = blockIdx.x;
  int low = 0, high = arrays.count - 1;  // the last array that begins at or before the piece
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (arrays.first_piece[middle] <= piece) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int64_t begin = (piece - arrays.first_piece[low]) * kPiece;
  const auto n = static_cast<int>(min(kPiece, arrays.elements[low] - begin));
  const T* x = static_cast<const T*>(arrays.data[low]) + begin;
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const double sum = aligned ? SquaresOf<kWidth<T>>(x, n) : SquaresOf<1>(x, n);
  const double total = MergeGroup<SumOf<float>>(sum, kBlockThreads);
  if (threadIdx.x == 0) parts[piece] = total;
}

// A block to each array.
__global__ void __launch_bounds__(kBlockThreads)
    squared_norms_kernel(const __grid_constant__ Arrays arrays, const double* parts,
                         double* norms) {
  const int array = static_cast<int>(blockIdx.x);
  double sum = 0;
  for (int64_t i = arrays.first_piece[array] + threadIdx.x; i < arrays.first_piece[array + 1];
       i += kBlockThreads) {
    sum += parts[i];
  }
  const double total = MergeGroup<SumOf<float>>(sum, kBlockThreads);
  if (threadIdx.x == 0) norms[array] = total;
}

}  // namespace

void SquaredNorms(const Launch& launch, DType dtype, int count, const void* const* data,
                  const int64_t* elements, double* norms) {
  for (int first = 0; first < count; first += kBatch) {
    Arrays arrays;
    arrays.count = std::min(kBatch, count - first);
    int64_t pieces = 0;
    for (int i = 0; i < arrays.count; ++i) {
      arrays.data[i] = data[first + i];
      arrays.elements[i] = elements[first + i];
      arrays.first_piece[i] = pieces;
      pieces += CeilDivide(elements[first + i], kPiece);
    }
    arrays.first_piece[arrays.count] = pieces;
    double* parts = nullptr;
    if (pieces > 0) {
      parts =
          static_cast<double*>(launch.scratch.Take(pieces * static_cast<int64_t>(sizeof(double))));
      DispatchFloat(dtype, [&](auto zero) {
        squared_pieces_kernel<decltype(zero)>
            <<<static_cast<unsigned>(pieces), kBlockThreads, 0, launch.stream>>>(arrays, parts);
        MNEMO_CUDA(cudaGetLastError());
      });
    }
    squared_norms_kernel<<<arrays.count, kBlockThreads, 0, launch.stream>>>(arrays, parts,
                                                                            norms + first);
    MNEMO_CUDA(cudaGetLastError());
  }
}

}  // namespace mnemo::cuda
