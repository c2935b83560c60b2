#include <algorithm>
#include <cmath>

#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256, kLongThreads = 512;
constexpr int64_t kLongRow = 8192;  // from here on a row has a block of kLongThreads

// The largest value of a part of a row and the sum of exp(x - top) over it. A NaN does not become
// the top; it comes back through the sum. While the top is -infinity the sum is relative to 0.
template <typename C>
struct PartOfRow {
  C top;
  double sum;

  static __device__ __forceinline__ C Base(C top) { return top == C(-INFINITY) ? C(0) : top; }

  __device__ __forceinline__ void Raise(C next) {
    sum = __dmul_rn(sum, exp(top - Base(next)));  // never fused, so that Merge is symmetric
    top = next;
  }
  __device__ __forceinline__ void Merge(C other_top, double other_sum) {
    PartOfRow other{other_top, other_sum};
    const C highest = other.top > top ? other.top : top;
    Raise(highest);
    other.Raise(highest);
    sum = __dadd_rn(sum, other.sum);
  }
};

// Merges groups of `group` neighbouring threads: a power of two up to 32, or the whole block. Every
// thread of the block calls it and gets its group's result, the same bits in all of them.
template <typename C>
__device__ __forceinline__ void MergeRow(PartOfRow<C>* part, int group) {
  for (int mask = (group < 32 ? group : 32) / 2; mask > 0; mask /= 2) {
    const C top = __shfl_xor_sync(0xffffffffu, part->top, mask);
    const double sum = __shfl_xor_sync(0xffffffffu, part->sum, mask);
    part->Merge(top, sum);
  }
  if (group <= 32) return;
  __shared__ C tops[kLongThreads / 32];
  __shared__ double sums[kLongThreads / 32];
  if (threadIdx.x % 32 == 0) {
    tops[threadIdx.x / 32] = part->top;
    sums[threadIdx.x / 32] = part->sum;
  }
  __syncthreads();
  *part = {tops[0], sums[0]};
  for (int i = 1; i < group / 32; ++i) part->Merge(tops[i], sums[i]);
  __syncthreads();  // before the next row overwrites them
}

struct RowShape {
  int64_t packs;             // of V elements to a row
  int64_t x_pack, out_pack;  // strides from pack to pack
  int group;                 // threads to a row
};

// Reads a row twice: for its top and sum at once, then for the result.
template <int V, typename T>
__global__ void __launch_bounds__(kLongThreads, 1)
    softmax_kernel(const __grid_constant__ Walk<2> rows, RowShape shape, const T* x, T* out) {
  using C = Compute<T>;
  const int group = shape.group, lane = static_cast<int>(threadIdx.x) & (group - 1);
  const int64_t per_block = blockDim.x / group;
  for (int64_t first = blockIdx.x * per_block; first < rows.count; first += gridDim.x * per_block) {
    const int64_t row = first + threadIdx.x / group;
    const bool active = row < rows.count;
    int64_t offsets[2] = {0, 0};  // of out, x
    if (active) rows.Offsets(row, offsets);
    const T* from = x + offsets[1];
    T* to = out + offsets[0];
    PartOfRow<C> part{C(-INFINITY), 0};
    if (active) {
#pragma unroll 2
      for (int64_t i = lane; i < shape.packs; i += group) {
        const Pack<T, V> pack = LoadPack<V>(from + i * shape.x_pack);
        C top = part.top;
#pragma unroll
        for (int v = 0; v < V; ++v) top = Value(pack.at[v]) > top ? Value(pack.at[v]) : top;
        if (top > part.top) part.Raise(top);
        const C base = part.Base(top);
        C sum = 0;
#pragma unroll
        for (int v = 0; v < V; ++v) sum += exp(Value(pack.at[v]) - base);
        part.sum += sum;
      }
    }
    MergeRow(&part, group);
    if (!active) continue;
    const C base = part.Base(part.top);
    const C scale = part.sum == 0 ? C(0) : static_cast<C>(1 / part.sum);
#pragma unroll 2
    for (int64_t i = lane; i < shape.packs; i += group) {
      Pack<T, V> pack = LoadPack<V>(from + i * shape.x_pack);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        pack.at[v] = Convert<T>(exp(Value(pack.at[v]) - base) * scale);
      }
      StorePack<V>(to + i * shape.out_pack, pack);
    }
  }
}

template <int V, typename T>
void LaunchSoftmax(const Launch& launch, const Dims<2>& rows, int64_t n, int64_t x_stride,
                   int64_t out_stride, const T* x, T* out) {
  RowShape shape{n / V, x_stride * V, out_stride * V, 1};
  int threads = kThreads;
  if (n >= kLongRow) {
    shape.group = threads = kLongThreads;
  } else if (shape.packs > 512) {
    shape.group = threads;
  } else {
    while (shape.group < 32 && shape.group < shape.packs) shape.group *= 2;
  }
  softmax_kernel<V>
      <<<Blocks(launch, rows.count(), threads / shape.group), threads, 0, launch.stream>>>(
          Walk<2>(rows), shape, x, out);
  MNEMO_CUDA(cudaGetLastError());
}

// Whether rows of one operand can be read in packs.
bool PackedRows(const Dims<2>& rows, int k, int64_t stride, const void* data, int width) {
  bool packed = stride == 1 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  for (int d = 0; d < rows.rank; ++d) packed = packed && rows.strides[k][d] % width == 0;
  return packed;
}

}  // namespace

void Softmax(const Launch& launch, const View& x, const View& out) {
  const int axis = out.rank - 1;
  const View* const views[] = {&out, &x};
  const Dims<2> rows = DimsOf(views, axis);
  const int64_t n = out.shape[axis];
  if (out.elements() == 0) return;
  // The stride of a single element says nothing.
  const int64_t x_stride = n == 1 ? 1 : x.strides[axis];
  const int64_t out_stride = n == 1 ? 1 : out.strides[axis];
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kPack = kWidth<T>;
    if (n % kPack == 0 && PackedRows(rows, 0, out_stride, out.data, kPack) &&
        PackedRows(rows, 1, x_stride, x.data, kPack)) {
      return LaunchSoftmax<kPack>(launch, rows, n, x_stride, out_stride, Data<const T>(x),
                                  Data<T>(out));
    }
    LaunchSoftmax<1>(launch, rows, n, x_stride, out_stride, Data<const T>(x), Data<T>(out));
  });
}

}  // namespace mnemo::cuda
