#include <algorithm>
#include <climits>
#include <cub/device/device_radix_sort.cuh>

#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// Rows of packs: strides from row to row and from pack to pack.
struct Rows {
  int64_t row, pack;
};

Rows RowsOf(const View& view, int width) { return {view.strides[0], view.strides[1] * width}; }

// Whether the rows of a matrix can be moved in packs of `width` elements, 16 bytes.
bool PackedRows(const View& view, int width) {
  return view.strides[1] == 1 && view.shape[1] % width == 0 && view.strides[0] % width == 0 &&
         reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

// A warp to each row.
template <int V, typename Word>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(int64_t count, int64_t packs, Rows table_rows, Rows out_rows, const Word* table,
                  const int32_t* ids, Word* out) {
  const int lane = threadIdx.x % 32;
  for (int64_t n = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32; n < count;
       n += gridDim.x * int64_t{kWarps}) {
    const Word* from = table + ids[n] * table_rows.row;
    Word* to = out + n * out_rows.row;
    for (int64_t i = lane; i < packs; i += 32) {
      StorePack<V>(to + i * out_rows.pack, LoadPack<V>(from + i * table_rows.pack));
    }
  }
}

__global__ void __launch_bounds__(kThreads) positions_kernel(int count, int32_t* positions) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < count;
       i += gridDim.x * int64_t{kThreads}) {
    positions[i] = static_cast<int32_t>(i);
  }
}

// starts[v], v in [0, vocabulary]: how many of the sorted ids are below v.
__global__ void __launch_bounds__(kThreads)
    starts_kernel(int count, int64_t vocabulary, const uint32_t* ids, int32_t* starts) {
  for (int64_t v = blockIdx.x * int64_t{kThreads} + threadIdx.x; v <= vocabulary;
       v += gridDim.x * int64_t{kThreads}) {
    int low = 0, high = count;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (ids[middle] < v) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    starts[v] = low;
  }
}

// The rows of every id, in order: positions[starts[v]] up to positions[starts[v + 1]].
struct Segments {
  int64_t vocabulary;
  const int32_t* starts;
  const int32_t* positions;
  // Ids of more than kLongSegment rows, in any order: each is summed on its own, so that the order
  // shows nowhere.
  int32_t* long_count;
  int32_t* long_ids;
};

constexpr int kLongSegment = 64;
constexpr int kLongThreads = 512, kLongWarps = kLongThreads / 32;

// Adds rows [begin, end) of a segment to `sums`, in order.
template <int V, typename T, typename Sum>
__device__ __forceinline__ void AddRows(const T* column, int64_t row_stride,
                                        const int32_t* positions, int begin, int end,
                                        Sum (&sums)[V]) {
  constexpr int kAtOnce = 4;
  for (int i = begin; i < end; i += kAtOnce) {
    Pack<T, V> rows[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (i + u < end) rows[u] = LoadPack<V>(column + positions[i + u] * row_stride);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (i + u >= end) break;
#pragma unroll
      for (int v = 0; v < V; ++v) sums[v] += static_cast<Sum>(Value(rows[u].at[v]));
    }
  }
}

// A warp to 32 packs of each row of out; leaves long segments to the next kernel.
template <int V, typename T>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(Segments segments, int64_t packs, Rows in_rows, Rows out_rows, const T* rows,
                   T* out) {
  const int lane = threadIdx.x % 32;
  const int64_t tiles = CeilDivide(packs, 32);
  for (int64_t item = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
       item < segments.vocabulary * tiles; item += gridDim.x * int64_t{kWarps}) {
    const int64_t id = item / tiles, tile = item - id * tiles, pack = tile * 32 + lane;
    const int begin = segments.starts[id], end = segments.starts[id + 1];
    if (end - begin > kLongSegment) {
      if (tile == 0 && lane == 0) {
        segments.long_ids[atomicAdd(segments.long_count, 1)] = static_cast<int32_t>(id);
      }
      continue;
    }
    if (pack >= packs) continue;
    Compute<T> sums[V] = {};
    AddRows<V>(rows + pack * in_rows.pack, in_rows.row, segments.positions, begin, end, sums);
    Pack<T, V> result;
#pragma unroll
    for (int v = 0; v < V; ++v) result.at[v] = Convert<T>(sums[v]);
    StorePack<V>(out + id * out_rows.row + pack * out_rows.pack, result);
  }
}

// A block to 32 packs of the row of each long segment: warps take shares of the segment, added up
// in f64 in their order.
template <int V, typename T>
__global__ void __launch_bounds__(kLongThreads, 1)
    scatter_long_kernel(Segments segments, int64_t packs, Rows in_rows, Rows out_rows,
                        const T* rows, T* out) {
  __shared__ double shared[kLongWarps][V][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t tiles = CeilDivide(packs, 32), items = *segments.long_count * tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t index = item / tiles, pack = (item - index * tiles) * 32 + lane;
    const int64_t id = segments.long_ids[index];
    const int begin = segments.starts[id], end = segments.starts[id + 1];
    const int share = (end - begin + kLongWarps - 1) / kLongWarps;
    const int first = min(begin + warp * share, end), last = min(first + share, end);
    double sums[V] = {};
    if (pack < packs) {
      AddRows<V>(rows + pack * in_rows.pack, in_rows.row, segments.positions, first, last, sums);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) shared[warp][v][lane] = sums[v];
    __syncthreads();
    if (warp == 0 && pack < packs) {
      Pack<T, V> result;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        double sum = 0;
        for (int i = 0; i < kLongWarps; ++i) sum += shared[i][v][lane];
        result.at[v] = Convert<T>(sum);
      }
      StorePack<V>(out + id * out_rows.row + pack * out_rows.pack, result);
    }
    __syncthreads();  // before the next item overwrites `shared`
  }
}

template <typename T>
T* Take(const Launch& launch, int64_t count) {
  return static_cast<T*>(launch.scratch.Take(count * static_cast<int64_t>(sizeof(T))));
}

// Sorts the positions of ids by id; equal ids stay in order.
Segments SortIds(const Launch& launch, int count, int64_t vocabulary, const int32_t* ids) {
  const auto* keys = reinterpret_cast<const uint32_t*>(ids);
  auto* sorted = Take<uint32_t>(launch, count);
  auto* positions = Take<int32_t>(launch, count);
  auto* order = Take<int32_t>(launch, count);
  auto* starts = Take<int32_t>(launch, vocabulary + 1);
  auto* long_ids = Take<int32_t>(launch, 1 + count / kLongSegment);
  auto* long_count = Take<int32_t>(launch, 1);
  positions_kernel<<<Blocks(launch, count, kThreads), kThreads, 0, launch.stream>>>(count,
                                                                                    positions);
  MNEMO_CUDA(cudaGetLastError());
  int bits = 1;
  while (bits < 32 && (int64_t{1} << bits) < vocabulary) ++bits;
  size_t bytes = 0;
  MNEMO_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, sorted, positions, order, count,
                                             0, bits, launch.stream));
  void* space = launch.scratch.Take(std::max<int64_t>(1, static_cast<int64_t>(bytes)));
  MNEMO_CUDA(cub::DeviceRadixSort::SortPairs(space, bytes, keys, sorted, positions, order, count, 0,
                                             bits, launch.stream));
  starts_kernel<<<Blocks(launch, vocabulary + 1, kThreads), kThreads, 0, launch.stream>>>(
      count, vocabulary, sorted, starts);
  MNEMO_CUDA(cudaGetLastError());
  MNEMO_CUDA(cudaMemsetAsync(long_count, 0, sizeof(int32_t), launch.stream));
  return {vocabulary, starts, order, long_count, long_ids};
}

template <int V, typename T>
void Scatter(const Launch& launch, const Segments& segments, bool may_be_long, const View& rows,
             const View& out) {
  const int64_t packs = out.shape[1] / V, tiles = CeilDivide(packs, 32);
  const Rows in_rows = RowsOf(rows, V), out_rows = RowsOf(out, V);
  scatter_kernel<V>
      <<<Blocks(launch, segments.vocabulary * tiles, kWarps), kThreads, 0, launch.stream>>>(
          segments, packs, in_rows, out_rows, Data<const T>(rows), Data<T>(out));
  MNEMO_CUDA(cudaGetLastError());
  if (!may_be_long) return;
  scatter_long_kernel<V><<<2 * launch.multiprocessors, kLongThreads, 0, launch.stream>>>(
      segments, packs, in_rows, out_rows, Data<const T>(rows), Data<T>(out));
  MNEMO_CUDA(cudaGetLastError());
}

template <typename Word>
__global__ void __launch_bounds__(kThreads)
    pick_kernel(int64_t count, int64_t columns, Rows x_rows, int64_t out_row, const Word* x,
                const int32_t* ids, Word* out) {
  for (int64_t n = blockIdx.x * int64_t{kThreads} + threadIdx.x; n < count;
       n += gridDim.x * int64_t{kThreads}) {
    const int32_t id = ids[n];
    const bool inside = id >= 0 && id < columns;
    out[n * out_row] = inside ? x[n * x_rows.row + id * x_rows.pack] : Word{0};
  }
}

template <typename Word>
__global__ void __launch_bounds__(kThreads)
    place_kernel(int64_t count, int64_t columns, int64_t value_row, Rows out_rows,
                 const Word* values, const int32_t* ids, Word* out) {
  for (int64_t n = blockIdx.x * int64_t{kThreads} + threadIdx.x; n < count;
       n += gridDim.x * int64_t{kThreads}) {
    const int32_t id = ids[n];
    if (id >= 0 && id < columns) {
      out[n * out_rows.row + id * out_rows.pack] = values[n * value_row];
    }
  }
}

}  // namespace

void GatherRows(const Launch& launch, const View& table, const View& ids, const View& out) {
  if (out.elements() == 0) return;
  const int64_t count = out.shape[0], width = out.shape[1];
  DispatchSize(out.dtype, [&](auto zero) {
    using Word = decltype(zero);
    constexpr int kPack = kWidth<Word>;
    const bool packs = PackedRows(table, kPack) && PackedRows(out, kPack);
    const int pack = packs ? kPack : 1;
    auto kernel = packs ? gather_kernel<kPack, Word> : gather_kernel<1, Word>;
    kernel<<<Blocks(launch, count, kWarps), kThreads, 0, launch.stream>>>(
        count, width / pack, RowsOf(table, pack), RowsOf(out, pack), Data<const Word>(table),
        Data<const int32_t>(ids), Data<Word>(out));
    MNEMO_CUDA(cudaGetLastError());
  });
}

void ScatterAddRows(const Launch& launch, const View& rows, const View& ids, const View& out) {
  if (out.elements() == 0) return;
  const int64_t count = rows.shape[0];
  if (count == 0) return Fill(launch, out, 0);
  if (count > INT_MAX) MNEMO_CUDA(cudaErrorInvalidValue);  // what the sort counts with
  const Segments segments =
      SortIds(launch, static_cast<int>(count), out.shape[0], Data<const int32_t>(ids));
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool may_be_long = count > kLongSegment;
    if (PackedRows(rows, kWidth<T>) && PackedRows(out, kWidth<T>)) {
      return Scatter<kWidth<T>, T>(launch, segments, may_be_long, rows, out);
    }
    Scatter<1, T>(launch, segments, may_be_long, rows, out);
  });
}

void PickColumns(const Launch& launch, const View& x, const View& ids, const View& out) {
  if (out.elements() == 0) return;
  const int64_t count = out.shape[0];
  DispatchSize(out.dtype, [&](auto zero) {
    using Word = decltype(zero);
    pick_kernel<<<Blocks(launch, count, kThreads), kThreads, 0, launch.stream>>>(
        count, x.shape[1], RowsOf(x, 1), out.strides[0], Data<const Word>(x),
        Data<const int32_t>(ids), Data<Word>(out));
    MNEMO_CUDA(cudaGetLastError());
  });
}

void PlaceColumns(const Launch& launch, const View& values, const View& ids, const View& out) {
  if (out.elements() == 0) return;
  const int64_t count = out.shape[0];
  Fill(launch, out, 0);
  DispatchSize(out.dtype, [&](auto zero) {
    using Word = decltype(zero);
    place_kernel<<<Blocks(launch, count, kThreads), kThreads, 0, launch.stream>>>(
        count, out.shape[1], values.strides[0], RowsOf(out, 1), Data<const Word>(values),
        Data<const int32_t>(ids), Data<Word>(out));
    MNEMO_CUDA(cudaGetLastError());
  });
}

}  // namespace mnemo::cuda
