#include <algorithm>
#include <cmath>

#include "src/core/cuda/totals.cuh"

namespace mnemo::cuda {
namespace {

// Blocks wanted at least; a constant, so that results are the same on every GPU.
constexpr int64_t kWantedBlocks = 1024;

int64_t PowerOfTwoFrom(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// One result per group of threads, which walk along the reduced dims; `chunks` groups share a
// result through `parts` [chunks, results].
template <typename Op, int V, typename T>
__global__ void __launch_bounds__(kBlockThreads)
    reduce_rows_kernel(const __grid_constant__ Walk<2> kept,
                       const __grid_constant__ Walk<1> reduced, int group, int64_t chunks,
                       int64_t chunk, const T* x, T* out, typename Op::Total* parts) {
  using Total = typename Op::Total;
  const int64_t items = kept.count * chunks, per_block = kBlockThreads / group;
  const int lane = static_cast<int>(threadIdx.x) & (group - 1);
  for (int64_t first = blockIdx.x * per_block; first < items; first += gridDim.x * per_block) {
    const int64_t item = first + threadIdx.x / group;
    const bool active = item < items;
    Total total = Op::Start();
    int64_t offsets[2] = {0, 0};  // of x, out
    if (active) {
      const int64_t part = chunks == 1 ? 0 : item / kept.count;
      kept.Offsets(item - part * kept.count, offsets);
      const int64_t begin = part * chunk;
      const int64_t end = begin + chunk < reduced.count ? begin + chunk : reduced.count;
#pragma unroll 4
      for (int64_t i = begin + lane; i < end; i += group) {
        int64_t at[1];
        reduced.Offsets(i, at);
        const Pack<T, V> pack = LoadPack<V>(x + offsets[0] + at[0]);
        typename Op::Partial partial = Op::StartPartial();
#pragma unroll
        for (int v = 0; v < V; ++v) Op::Step(Value(pack.at[v]), &partial);
        Op::Flush(partial, &total);
      }
    }
    total = MergeGroup<Op>(total, group);
    if (!active || lane != 0) continue;
    if (chunks == 1) {
      out[offsets[1]] = Op::Result(total);
    } else {
      parts[item] = total;
    }
  }
}

struct Columns {
  int64_t packs;                 // of V columns next to each other
  int64_t x_pack;                // stride of x from pack to pack
  int64_t x_stride, out_stride;  // from column to column
  int64_t tiles;                 // of blockDim.x packs
  int64_t chunks, chunk;
};

// Columns side by side along threadIdx.x; threadIdx.y shares out the reduced index.
template <typename Op, int V, typename T>
__global__ void __launch_bounds__(kBlockThreads, 2)
    reduce_columns_kernel(const __grid_constant__ Walk<2> outer,
                          const __grid_constant__ Walk<1> reduced, Columns dims, const T* x, T* out,
                          typename Op::Total* parts) {
  using Total = typename Op::Total;
  using Partial = typename Op::Partial;
  constexpr int kAtOnce = 4;
  __shared__ Total shared[V][kBlockThreads];
  const int width = blockDim.x, height = blockDim.y, y = threadIdx.y;
  const int self = y * width + static_cast<int>(threadIdx.x);
  const int64_t per_chunk = outer.count * dims.tiles, results = outer.count * dims.packs * V;
  for (int64_t item = blockIdx.x; item < per_chunk * dims.chunks; item += gridDim.x) {
    const int64_t part = item / per_chunk, place = item - part * per_chunk;
    const int64_t matrix = place / dims.tiles;
    const int64_t pack = (place - matrix * dims.tiles) * width + threadIdx.x;
    const bool active = pack < dims.packs;
    int64_t offsets[2];  // of x, out
    outer.Offsets(matrix, offsets);
    Total totals[V];
#pragma unroll
    for (int v = 0; v < V; ++v) totals[v] = Op::Start();
    if (active) {
      const T* from = x + offsets[0] + pack * dims.x_pack;
      const int64_t end = min((part + 1) * dims.chunk, reduced.count);
      for (int64_t r = part * dims.chunk + y; r < end; r += kAtOnce * height) {
        Partial partials[V];
#pragma unroll
        for (int v = 0; v < V; ++v) partials[v] = Op::StartPartial();
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          if (r + u * height >= end) break;
          int64_t at[1];
          reduced.Offsets(r + u * height, at);
          const Pack<T, V> row = LoadPack<V>(from + at[0]);
#pragma unroll
          for (int v = 0; v < V; ++v) Op::Step(Value(row.at[v]), &partials[v]);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) Op::Flush(partials[v], &totals[v]);
      }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) shared[v][self] = totals[v];
    for (int half = height / 2; half > 0; half /= 2) {
      __syncthreads();
      if (y < half) {
#pragma unroll
        for (int v = 0; v < V; ++v) Op::Merge(shared[v][self + half * width], &shared[v][self]);
      }
    }
    if (active && y == 0) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int64_t column = pack * V + v;
        if (dims.chunks == 1) {
          out[offsets[1] + column * dims.out_stride] = Op::Result(shared[v][self]);
        } else {
          parts[part * results + matrix * dims.packs * V + column] = shared[v][self];
        }
      }
    }
    __syncthreads();  // before the next item overwrites `shared`
  }
}

// Adds up parts [chunks, results], a group of threads (up to 32) to each result.
template <typename Op, typename T>
__global__ void __launch_bounds__(kBlockThreads)
    merge_parts_kernel(const __grid_constant__ Walk<2> kept, int group, int64_t chunks,
                       const typename Op::Total* parts, T* out) {
  using Total = typename Op::Total;
  const int64_t per_block = kBlockThreads / group;
  const int lane = static_cast<int>(threadIdx.x) & (group - 1);
  for (int64_t first = blockIdx.x * per_block; first < kept.count; first += gridDim.x * per_block) {
    const int64_t result = first + threadIdx.x / group;
    Total total = Op::Start();
    if (result < kept.count) {
#pragma unroll 4
      for (int64_t c = lane; c < chunks; c += group) {
        const Total part = parts[c * kept.count + result];
        Op::Merge(part, &total);
      }
    }
    total = MergeGroup<Op>(total, group);
    if (result < kept.count && lane == 0) {
      int64_t offsets[2];  // of x, out
      kept.Offsets(result, offsets);
      out[offsets[1]] = Op::Result(total);
    }
  }
}

template <typename Op, typename T>
void MergeParts(const Launch& launch, const Dims<2>& kept, int64_t chunks,
                const typename Op::Total* parts, T* out) {
  const int group = kept.count() < 2048 ? 32 : 1;
  merge_parts_kernel<Op>
      <<<Blocks(launch, kept.count(), kBlockThreads / group), kBlockThreads, 0, launch.stream>>>(
          Walk<2>(kept), group, chunks, parts, out);
  MNEMO_CUDA(cudaGetLastError());
}

template <typename Op>
typename Op::Total* TakeParts(const Launch& launch, int64_t count) {
  return static_cast<typename Op::Total*>(
      launch.scratch.Take(count * static_cast<int64_t>(sizeof(typename Op::Total))));
}

template <typename Op, int V, typename T>
void ReduceRows(const Launch& launch, const Dims<2>& kept, Dims<1> reduced, const T* x, T* out) {
  reduced.Pack(V);
  const int64_t results = kept.count(), length = reduced.count();
  const bool whole_block = length > 1024 || (length > 128 && results < 2048);
  const int group =
      whole_block ? kBlockThreads : static_cast<int>(PowerOfTwoFrom(std::min<int64_t>(32, length)));
  int64_t chunks = 1;
  if (whole_block) {
    chunks = std::max<int64_t>(
        1, std::min(kWantedBlocks / results, CeilDivide(length, 4 * kBlockThreads)));
  }
  const int64_t chunk = CeilDivide(length, chunks);
  chunks = CeilDivide(length, chunk);
  auto* parts = chunks == 1 ? nullptr : TakeParts<Op>(launch, results * chunks);
  reduce_rows_kernel<Op, V>
      <<<Blocks(launch, results * chunks, kBlockThreads / group), kBlockThreads, 0,
         launch.stream>>>(Walk<2>(kept), Walk<1>(reduced), group, chunks, chunk, x, out, parts);
  MNEMO_CUDA(cudaGetLastError());
  if (chunks > 1) MergeParts<Op>(launch, kept, chunks, parts, out);
}

template <typename Op, int V, typename T>
void ReduceColumns(const Launch& launch, const Dims<2>& kept, const Dims<1>& reduced, const T* x,
                   T* out) {
  Dims<2> outer = kept;
  outer.Remove(0);
  Columns dims;
  dims.packs = kept.sizes[0] / V;
  dims.x_stride = kept.strides[0][0];
  dims.out_stride = kept.strides[1][0];
  dims.x_pack = dims.x_stride * V;
  const int64_t width = PowerOfTwoFrom(std::min<int64_t>(32, dims.packs));
  const int64_t height = kBlockThreads / width, length = reduced.count();
  dims.tiles = CeilDivide(dims.packs, width);
  const int64_t blocks = outer.count() * dims.tiles;
  dims.chunks = std::max<int64_t>(
      1, std::min(CeilDivide(kWantedBlocks, blocks), CeilDivide(length, 16 * height)));
  dims.chunk = CeilDivide(length, dims.chunks);
  dims.chunks = CeilDivide(length, dims.chunk);
  auto* parts = dims.chunks == 1 ? nullptr : TakeParts<Op>(launch, kept.count() * dims.chunks);
  reduce_columns_kernel<Op, V>
      <<<Blocks(launch, blocks * dims.chunks, 1),
         dim3(static_cast<unsigned>(width), static_cast<unsigned>(height)), 0, launch.stream>>>(
          Walk<2>(outer), Walk<1>(reduced), dims, x, out, parts);
  MNEMO_CUDA(cudaGetLastError());
  if (dims.chunks > 1) MergeParts<Op>(launch, kept, dims.chunks, parts, out);
}

// Whether rows, too, start at whole packs, so that x can be read in packs along `inner`.
template <int M, int N>
bool Aligned(const Dims<M>& inner, const Dims<N>& other, int first, const void* x, int size,
             int width) {
  bool aligned = inner.rank > 0 && inner.sizes[0] % width == 0 && Packs(inner, 0, x, size, width);
  for (int d = first; d < other.rank; ++d) {
    aligned = aligned && other.strides[0][d] % width == 0;
  }
  return aligned;
}

template <typename Op, typename T>
void ReduceOf(const Launch& launch, const Dims<2>& kept, const Dims<1>& reduced, const T* x,
              T* out) {
  constexpr int kSize = sizeof(T), kPack = kWidth<T>;
  const bool rows =
      kept.rank == 0 || (reduced.rank > 0 && reduced.strides[0][0] < kept.strides[0][0]);
  if (rows) {
    if (Aligned(reduced, kept, 0, x, kSize, kPack)) {
      return ReduceRows<Op, kPack>(launch, kept, reduced, x, out);
    }
    return ReduceRows<Op, 1>(launch, kept, reduced, x, out);
  }
  if (Aligned(kept, reduced, 0, x, kSize, kPack)) {
    return ReduceColumns<Op, kPack>(launch, kept, reduced, x, out);
  }
  ReduceColumns<Op, 1>(launch, kept, reduced, x, out);
}

}  // namespace

void Reduce(const Launch& launch, ReduceOp op, const View& x, const View& out) {
  Dims<2> kept;     // of x, out
  Dims<1> reduced;  // of x
  bool same = true;
  for (int axis = x.rank; axis-- > 0;) {
    if (x.shape[axis] == out.shape[axis]) {
      kept.Add(x.shape[axis], {x.strides[axis], out.strides[axis]});
    } else {
      same = false;
      reduced.Add(x.shape[axis], {x.strides[axis]});
    }
  }
  if (out.elements() == 0) return;
  if (same) return Copy(launch, x, out);
  if (x.elements() == 0) {
    return Fill(launch, out, op == ReduceOp::kSum ? 0 : -static_cast<double>(INFINITY));
  }
  kept.Arrange(0);
  reduced.Arrange(0);
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (op == ReduceOp::kSum) {
      ReduceOf<SumOf<T>>(launch, kept, reduced, Data<const T>(x), Data<T>(out));
    } else {
      ReduceOf<MaximumOf<T>>(launch, kept, reduced, Data<const T>(x), Data<T>(out));
    }
  });
}

}  // namespace mnemo::cuda
