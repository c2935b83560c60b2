// Elementwise loops over strided operands: out = f(in...), one pack of elements a thread at a time.
//
// Where every operand is dense and aligned along the innermost dim (or repeats one element there)
// accesses are 16 bytes wide; otherwise threads take one element each, in the order of the output.
// The output may be the very same view as an input: a thread reads its elements before it writes.
#pragma once

#include <cstdint>
#include <utility>

#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {

inline constexpr int kLoopThreads = 256;

template <int V, typename T>
__device__ __forceinline__ Pack<T, V> LoadOrRepeat(const T* from, bool repeat) {
  if constexpr (V > 1) {
    if (repeat) {
      Pack<T, V> pack;
      const T value = *from;
#pragma unroll
      for (int i = 0; i < V; ++i) pack.at[i] = value;
      return pack;
    }
  }
  return LoadPack<V>(from);
}

template <int V, typename F, size_t... K, typename Out, typename... In>
__device__ __forceinline__ void ApplyAt(std::index_sequence<K...>, const F& f, uint32_t repeats,
                                        const int64_t (&offsets)[1 + sizeof...(In)], Out* out,
                                        const In*... in) {
  Pack<Out, V> result;
  f(result, LoadOrRepeat<V>(in + offsets[K + 1], repeats >> K & 1)...);
  StorePack<V>(out + offsets[0], result);
}

// `repeats`: a bit for every input that repeats one element along the innermost dim.
template <int V, typename F, typename Out, typename... In>
__global__ void __launch_bounds__(kLoopThreads)
    loop_kernel(const __grid_constant__ Walk<1 + sizeof...(In)> walk, uint32_t repeats, F f,
                Out* out, const In*... in) {
  const auto count = static_cast<uint32_t>(walk.count);
  // No overflow: count < 2^31 and the grid has far fewer than 2^31 threads.
  for (uint32_t i = blockIdx.x * kLoopThreads + threadIdx.x; i < count;
       i += gridDim.x * kLoopThreads) {
    int64_t offsets[1 + sizeof...(In)];
    walk.NarrowOffsets(i, offsets);
    ApplyAt<V>(std::index_sequence_for<In...>{}, f, repeats, offsets, out, in...);
  }
}

// Elements from `first` on along the innermost dim.
template <int V, typename F, size_t... K, typename Out, typename... In>
void LaunchLoop(std::index_sequence<K...>, const Launch& launch, Dims<1 + sizeof...(In)> dims,
                int64_t first, const F& f, Out* out, const In*... in) {
  constexpr int kOperands = 1 + sizeof...(In);
  const uint32_t repeats = (0u | ... | (dims.inner(K + 1) == 0 ? 1u << K : 0u));
  int64_t start[kOperands];
  for (int k = 0; k < kOperands; ++k) start[k] = first * dims.inner(k);
  if (first > 0) dims.sizes[0] -= first;
  dims.Pack(V);
  ForEachPart(
      dims, kNarrowCount, start,
      [&](const Dims<kOperands>& part, const int64_t(&offsets)[kOperands]) {
        const int64_t count = part.count();
        if (count == 0) return;
        loop_kernel<V><<<Blocks(launch, count, kLoopThreads), kLoopThreads, 0, launch.stream>>>(
            Walk<kOperands>(part), repeats, f, out + offsets[0], (in + offsets[K + 1])...);
        MNEMO_CUDA(cudaGetLastError());
      });
}

// Packs of V, and single elements where those do not fit. f(Pack<Out, W>&, const Pack<In, W>&...)
// is called with W = V or 1.
template <int V, typename F, typename Out, typename... In>
void RunLoop(const Launch& launch, const Dims<1 + sizeof...(In)>& dims, const F& f, Out* out,
             const In*... in) {
  const auto each = std::index_sequence_for<In...>{};
  if constexpr (V > 1) {
    const int64_t inner = dims.rank == 0 ? 1 : dims.sizes[0];
    const bool whole = dims.rank == 1 ? inner >= V : inner % V == 0;
    bool packs = whole && Packs(dims, 0, out, sizeof(Out), V);
    int k = 1;
    ((packs = packs && (dims.inner(k) == 0 || Packs(dims, k, in, sizeof(In), V)), ++k), ...);
    if (packs) {
      LaunchLoop<V>(each, launch, dims, 0, f, out, in...);
      const int64_t done = inner / V * V;  // less than `inner` only where this is the one dim
      if (done < inner) LaunchLoop<1>(each, launch, dims, done, f, out, in...);
      return;
    }
  }
  LaunchLoop<1>(each, launch, dims, 0, f, out, in...);
}

// out = f(in...) over views of one shape, in packs of V at most.
template <int V, typename Out, typename... In, typename F, typename... Views>
void Loop(const Launch& launch, const F& f, const View& out, const Views&... in) {
  static_assert(sizeof...(In) == sizeof...(Views));
  const View* const views[] = {&out, &in...};
  RunLoop<V>(launch, DimsOf(views), f, Data<Out>(out), static_cast<const In*>(in.data)...);
}

}  // namespace mnemo::cuda
