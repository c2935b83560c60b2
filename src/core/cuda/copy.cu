// Fill and Copy: values that move between layouts and dtypes.
#include <cmath>

#include "src/core/cuda/loop.cuh"

namespace mnemo::cuda {
namespace {

template <typename T>
struct FillWith {
  double value;

  template <int V>
  __device__ void operator()(Pack<T, V>& out) const {
#pragma unroll
    for (int i = 0; i < V; ++i) out.at[i] = Convert<T>(value);
  }
};

struct ConvertEach {
  template <typename To, typename From, int V>
  __device__ void operator()(Pack<To, V>& out, const Pack<From, V>& x) const {
#pragma unroll
    for (int i = 0; i < V; ++i) out.at[i] = Convert<To>(x.at[i]);
  }
};

constexpr int kTileRows = 8;  // of 32 threads
constexpr int64_t kLeastTransposed = 8;

struct Transposition {
  int64_t n0, n1;      // out is dense along dim 0, x along dim 1
  int64_t x_stride;    // of x along dim 0
  int64_t out_stride;  // of out along dim 1
  int64_t tiles0, tiles1;
};

// Tiles of 32 P x 32 P through shared memory, P elements to an access on both sides.
template <int P, typename From, typename To>
__global__ void __launch_bounds__(32 * kTileRows)
    transpose_kernel(const __grid_constant__ Walk<2> outer, Transposition dims, const From* x,
                     To* out) {
  constexpr int kSide = 32 * P;
  __shared__ __align__(16) To tile[kSide][kSide + P];  // [dim 0][dim 1]
  const int column = static_cast<int>(threadIdx.x) * P;
  const int64_t tiles = dims.tiles0 * dims.tiles1, work = outer.count * tiles;
  for (int64_t w = blockIdx.x; w < work; w += gridDim.x) {
    const int64_t matrix = w / tiles, place = w - matrix * tiles;
    const int64_t first1 = place / dims.tiles0 * kSide, first0 = place % dims.tiles0 * kSide;
    int64_t offsets[2];  // of out, x
    outer.Offsets(matrix, offsets);
    const From* from = x + offsets[1];
    To* to = out + offsets[0];
#pragma unroll
    for (int row = 0; row < kSide; row += kTileRows) {
      const int i = row + threadIdx.y;
      if (first0 + i < dims.n0 && first1 + column < dims.n1) {
        const Pack<From, P> in = LoadPack<P>(from + (first0 + i) * dims.x_stride + first1 + column);
        Pack<To, P> converted;
        ConvertEach{}(converted, in);
        StorePack<P>(&tile[i][column], converted);
      }
    }
    __syncthreads();
#pragma unroll
    for (int row = 0; row < kSide; row += kTileRows) {
      const int j = row + threadIdx.y;
      if (first1 + j < dims.n1 && first0 + column < dims.n0) {
        Pack<To, P> turned;
#pragma unroll
        for (int p = 0; p < P; ++p) turned.at[p] = tile[column + p][j];
        StorePack<P>(to + (first1 + j) * dims.out_stride + first0 + column, turned);
      }
    }
    __syncthreads();  // before the next tile overwrites this one
  }
}

template <int P, typename From, typename To>
void LaunchTranspose(const Launch& launch, const Dims<2>& outer, Transposition dims, const From* x,
                     To* out) {
  dims.tiles0 = CeilDivide(dims.n0, 32 * P);
  dims.tiles1 = CeilDivide(dims.n1, 32 * P);
  const int64_t work = outer.count() * dims.tiles0 * dims.tiles1;
  transpose_kernel<P><<<Blocks(launch, work, 1), dim3(32, kTileRows), 0, launch.stream>>>(
      Walk<2>(outer), dims, x, out);
  MNEMO_CUDA(cudaGetLastError());
}

// Whether pairs of 2-byte elements can be moved whole on both sides.
bool Pairs(const Dims<2>& outer, const Transposition& dims, const void* x, const void* out) {
  bool pairs = dims.n0 % 2 == 0 && dims.n1 % 2 == 0 && dims.x_stride % 2 == 0 &&
               dims.out_stride % 2 == 0 && reinterpret_cast<uintptr_t>(x) % 4 == 0 &&
               reinterpret_cast<uintptr_t>(out) % 4 == 0;
  for (int d = 0; d < outer.rank; ++d) {
    pairs = pairs && outer.strides[0][d] % 2 == 0 && outer.strides[1][d] % 2 == 0;
  }
  return pairs;
}

// Copies through tiles if out is dense along the innermost dim and x along another one.
template <typename From, typename To>
bool CopyTransposed(const Launch& launch, const Dims<2>& dims, const From* x, To* out) {
  if (dims.rank < 2 || dims.strides[0][0] != 1 || dims.strides[1][0] <= 1 ||
      dims.sizes[0] < kLeastTransposed) {
    return false;
  }
  for (int d = 1; d < dims.rank; ++d) {
    if (dims.strides[1][d] != 1 || dims.sizes[d] < kLeastTransposed) continue;
    const Transposition matrix{
        dims.sizes[0], dims.sizes[d], dims.strides[1][0], dims.strides[0][d], 0, 0};
    Dims<2> outer = dims;
    outer.Remove(d);
    outer.Remove(0);
    if constexpr (sizeof(From) == 2 && sizeof(To) == 2) {
      if (Pairs(outer, matrix, x, out)) {
        LaunchTranspose<2>(launch, outer, matrix, x, out);
        return true;
      }
    }
    LaunchTranspose<1>(launch, outer, matrix, x, out);
    return true;
  }
  return false;
}

template <typename Word>
void CopySame(const Launch& launch, const View& x, const View& out) {
  const View* const views[] = {&out, &x};
  const Dims<2> dims = DimsOf(views);
  if (dims.count() == 0 ||
      (x.data == out.data && dims.inner(0) == dims.inner(1) && dims.rank <= 1)) {
    return;
  }
  if (dims.rank == 0 || (dims.rank == 1 && dims.inner(0) == 1 && dims.inner(1) == 1)) {
    MNEMO_CUDA(cudaMemcpyAsync(out.data, x.data, dims.count() * sizeof(Word),
                               cudaMemcpyDeviceToDevice, launch.stream));
    return;
  }
  if (CopyTransposed(launch, dims, Data<Word>(x), Data<Word>(out))) return;
  RunLoop<kWidth<Word>>(launch, dims, ConvertEach{}, Data<Word>(out),
                        static_cast<const Word*>(x.data));
}

// V: elements to a pack.
template <int V, typename From, typename To>
void CopyConverted(const Launch& launch, const View& x, const View& out) {
  const View* const views[] = {&out, &x};
  const Dims<2> dims = DimsOf(views);
  if (dims.count() == 0) return;
  if constexpr (V > 1) {  // what mixed precision needs
    if (CopyTransposed(launch, dims, Data<From>(x), Data<To>(out))) return;
  }
  RunLoop<V>(launch, dims, ConvertEach{}, Data<To>(out), static_cast<const From*>(x.data));
}

template <typename F>
void DispatchAny(DType dtype, F&& f) {
  if (dtype == DType::kI32) return f(int32_t{});
  DispatchFloat(dtype, f);
}

}  // namespace

void Copy(const Launch& launch, const View& x, const View& out) {
  if (x.dtype == out.dtype) {
    return DispatchSize(x.dtype, [&](auto zero) { CopySame<decltype(zero)>(launch, x, out); });
  }
  if (x.dtype == DType::kF32 && out.dtype == DType::kBF16) {
    return CopyConverted<8, float, BFloat16>(launch, x, out);
  }
  if (x.dtype == DType::kBF16 && out.dtype == DType::kF32) {
    return CopyConverted<8, BFloat16, float>(launch, x, out);
  }
  DispatchAny(x.dtype, [&](auto from) {
    using From = decltype(from);
    DispatchAny(out.dtype, [&](auto to) {
      using To = decltype(to);
      constexpr bool kMixed = sizeof(From) + sizeof(To) == 6 && !std::is_same_v<From, int32_t> &&
                              !std::is_same_v<To, int32_t>;  // f32 and bf16, above
      if constexpr (!std::is_same_v<From, To> && !kMixed) {
        CopyConverted<1, From, To>(launch, x, out);
      }
    });
  });
}

void Fill(const Launch& launch, const View& out, double value) {
  const View* const views[] = {&out};
  const Dims<1> dims = DimsOf(views);
  if (dims.count() == 0) return;
  if (value == 0 && !std::signbit(value) && dims.rank == 1 && dims.inner(0) == 1) {
    MNEMO_CUDA(cudaMemsetAsync(out.data, 0, dims.count() * SizeOf(out.dtype), launch.stream));
    return;
  }
  DispatchAny(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    RunLoop<kWidth<T>>(launch, dims, FillWith<T>{value}, Data<T>(out));
  });
}

}  // namespace mnemo::cuda
