// Columns side by side, each thread walking along time. A long scan of few columns is cut into
// chunks: what every chunk makes of a state (h -> gain h + end), then the state at each chunk's
// entry, then every chunk from that state.
#include <algorithm>

#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 128, kBatch = 8;
constexpr int64_t kLongScan = 256, kManyColumns = 32768;

struct Steps {
  int64_t out, a, b;      // strides along time; negative for a reverse scan
  int64_t count;          // of the whole scan
  int64_t chunk, chunks;  // steps to a chunk
};

// What a chunk makes of a state: the product of its a, and its end from zero.
struct ChunkEffect {
  double gain, end;
};

// kBatch steps' values at once, so that as many reads are under way; 1 and 0 beyond `n`.
template <typename T>
__device__ __forceinline__ void LoadSteps(const T* a, const T* b, const Steps& steps, int64_t n,
                                          Compute<T> (&av)[kBatch], Compute<T> (&bv)[kBatch]) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    av[i] = i < n ? Value(a[i * steps.a]) : Compute<T>(1);
    bv[i] = i < n ? Value(b[i * steps.b]) : Compute<T>(0);
  }
}

// effects [chunks, columns]
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scan_effects_kernel(const __grid_constant__ Walk<3> columns, Steps steps, const T* a,
                        const T* b, ChunkEffect* effects) {
  const int64_t items = columns.count * steps.chunks;
  for (int64_t item = blockIdx.x * int64_t{kThreads} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{kThreads}) {
    const int64_t chunk = item / columns.count, first = chunk * steps.chunk;
    int64_t offsets[3];  // of out, a, b
    columns.Offsets(item - chunk * columns.count, offsets);
    const T* a_at = a + offsets[1] + first * steps.a;
    const T* b_at = b + offsets[2] + first * steps.b;
    const int64_t n = min(steps.chunk, steps.count - first);
    ChunkEffect effect{1, 0};
    for (int64_t t = 0; t < n; t += kBatch) {
      Compute<T> av[kBatch], bv[kBatch];
      LoadSteps(a_at + t * steps.a, b_at + t * steps.b, steps, n - t, av, bv);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (t + i < n) {
          effect.end = fma(static_cast<double>(av[i]), effect.end, static_cast<double>(bv[i]));
          effect.gain *= av[i];
        }
      }
    }
    effects[item] = effect;
  }
}

// Replaces each chunk's gain by the state at its entry.
__global__ void __launch_bounds__(kThreads)
    scan_entries_kernel(int64_t columns, int64_t chunks, ChunkEffect* effects) {
  for (int64_t column = blockIdx.x * int64_t{kThreads} + threadIdx.x; column < columns;
       column += gridDim.x * int64_t{kThreads}) {
    double state = 0;
    ChunkEffect* at = effects + column;
    for (int64_t c = 0; c < chunks; c += kBatch) {
      ChunkEffect batch[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (c + i < chunks) batch[i] = at[(c + i) * columns];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (c + i < chunks) {
          at[(c + i) * columns].gain = state;
          // A state of zero stays out of gains that overflowed.
          state = state == 0 ? batch[i].end : fma(batch[i].gain, state, batch[i].end);
        }
      }
    }
  }
}

// `entries` is null where there is one chunk.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scan_kernel(const __grid_constant__ Walk<3> columns, Steps steps, const T* a, const T* b,
                const ChunkEffect* entries, T* out) {
  const int64_t items = columns.count * steps.chunks;
  for (int64_t item = blockIdx.x * int64_t{kThreads} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{kThreads}) {
    const int64_t chunk = steps.chunks == 1 ? 0 : item / columns.count;
    const int64_t first = chunk * steps.chunk;
    int64_t offsets[3];  // of out, a, b
    columns.Offsets(item - chunk * columns.count, offsets);
    T* to = out + offsets[0] + first * steps.out;
    const T* a_at = a + offsets[1] + first * steps.a;
    const T* b_at = b + offsets[2] + first * steps.b;
    const int64_t n = min(steps.chunk, steps.count - first);
    auto state = static_cast<Compute<T>>(entries == nullptr ? 0.0 : entries[item].gain);
    for (int64_t t = 0; t < n; t += kBatch) {
      Compute<T> av[kBatch], bv[kBatch];
      // All reads of a batch come before its writes: out may be b.
      LoadSteps(a_at + t * steps.a, b_at + t * steps.b, steps, n - t, av, bv);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (t + i < n) {
          state = fma(av[i], state, bv[i]);
          to[(t + i) * steps.out] = Convert<T>(state);
        }
      }
    }
  }
}

}  // namespace

void LinearScan(const Launch& launch, const View& a, const View& b, bool reverse, const View& out) {
  if (out.elements() == 0) return;
  const int axis = out.rank - 2;
  const View* const views[] = {&out, &a, &b};
  const Dims<3> dims = DimsOf(views, axis);
  const Walk<3> columns(dims);
  const int64_t sign = reverse ? -1 : 1, count = out.shape[axis];
  const int64_t start = reverse ? count - 1 : 0;
  Steps steps{
      sign * out.strides[axis], sign * a.strides[axis], sign * b.strides[axis], count, count, 1};
  if (count > kLongScan && columns.count < kManyColumns) {
    steps.chunk = std::max<int64_t>(128, CeilDivide(count, 1024));
    steps.chunks = CeilDivide(count, steps.chunk);
  }
  const int64_t items = columns.count * steps.chunks;
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* from_a = Data<const T>(a) + start * a.strides[axis];
    const T* from_b = Data<const T>(b) + start * b.strides[axis];
    ChunkEffect* effects = nullptr;
    if (steps.chunks > 1) {
      effects = static_cast<ChunkEffect*>(
          launch.scratch.Take(items * static_cast<int64_t>(sizeof(ChunkEffect))));
      scan_effects_kernel<<<Blocks(launch, items, kThreads), kThreads, 0, launch.stream>>>(
          columns, steps, from_a, from_b, effects);
      MNEMO_CUDA(cudaGetLastError());
      scan_entries_kernel<<<Blocks(launch, columns.count, kThreads), kThreads, 0, launch.stream>>>(
          columns.count, steps.chunks, effects);
      MNEMO_CUDA(cudaGetLastError());
    }
    scan_kernel<<<Blocks(launch, items, kThreads), kThreads, 0, launch.stream>>>(
        columns, steps, from_a, from_b, effects, Data<T>(out) + start * out.strides[axis]);
    MNEMO_CUDA(cudaGetLastError());
  });
}

}  // namespace mnemo::cuda
