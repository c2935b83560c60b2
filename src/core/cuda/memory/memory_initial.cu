// W_0 in the forms that the kernels of rules with options read, and its gradient in the caller's.
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

// One slice of one layer of one head a CTA.
struct Part {
  int head, slice, layer;
  __device__ Part()
      : head(blockIdx.x / (2 * kSlices)), slice(blockIdx.x / 2 % kSlices), layer(blockIdx.x % 2) {}
};

__global__ void __launch_bounds__(128)
    prepare_initial_kernel(MemoryScanInitial from, float* initial, bf16* tiles) {
  __shared__ alignas(1024) bf16 tile[kTileElements];
  const Part part;
  Acc w;
  load_slice(w, part.layer ? from.w2 : from.w1, part.head, part.slice, part.layer);
  float4* to = initial_at(initial, part.head, part.slice, part.layer);
#pragma unroll
  for (int j = 0; j < 8; ++j)
    to[128 * j] = make_float4(w[4 * j], w[4 * j + 1], w[4 * j + 2], w[4 * j + 3]);
  Frag frag;
  to_frag(frag, w);
  store_frag(tile, frag);
  __syncthreads();
  uint4* image = reinterpret_cast<uint4*>(tiles + int64_t{blockIdx.x} * kTileElements);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = 128 * i + static_cast<int>(threadIdx.x);
    image[at] = reinterpret_cast<const uint4*>(tile)[at];
  }
}

__global__ void __launch_bounds__(128)
    finish_initial_kernel(MemoryScanInitial to, int heads, int sequences, const float* dinitial) {
  const Part part;
  Acc sum = {};
  for (int sequence = part.head; sequence < sequences; sequence += heads) {
    const float4* from = initial_at(dinitial, sequence, part.slice, part.layer);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float4 x = from[128 * j];
      sum[4 * j] += x.x, sum[4 * j + 1] += x.y, sum[4 * j + 2] += x.z, sum[4 * j + 3] += x.w;
    }
  }
  store_slice(sum, part.layer ? to.w2 : to.w1, part.head, part.slice, part.layer);
}

__global__ void clamp_hits_kernel(const unsigned* hits, float* out) {
  *out = static_cast<float>(*hits);
}

}  // namespace

void launch_prepare_initial(const MemoryScanInitial& from, int heads, float* initial, bf16* tiles,
                            cudaStream_t stream) {
  prepare_initial_kernel<<<heads * 2 * kSlices, 128, 0, stream>>>(from, initial, tiles);
}

void launch_finish_initial(const MemoryScanInitial& to, const Segment& segment,
                           const float* dinitial, cudaStream_t stream) {
  finish_initial_kernel<<<segment.heads * 2 * kSlices, 128, 0, stream>>>(
      to, segment.heads, segment.sequences, dinitial);
}

void launch_clamp_hits(const unsigned* hits, float* out, cudaStream_t stream) {
  clamp_hits_kernel<<<1, 1, 0, stream>>>(hits, out);
}

}  // namespace mnemo::memory
