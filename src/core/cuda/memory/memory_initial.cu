// W_0 in the forms that the kernels of rules with options read, and its gradient in the caller's.
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

// One slice of one layer of one head a CTA.
struct Part {
  int slices, layers, head, slice, layer;
  __device__ explicit Part(int depth)
      : slices(depth == 1 ? 1 : kSlices),
        layers(depth),
        head(blockIdx.x / (slices * layers)),
        slice(blockIdx.x / layers % slices),
        layer(blockIdx.x % layers) {}
  // This thread's part of such parts that lie one after the other, of a head or sequence.
  template <typename T>
  __device__ auto at(T* base, int owner) const {
    const int64_t index = (int64_t{owner} * slices + slice) * layers + layer;
    return initial_at(base + index * kTileElements, 0, 0, 0);
  }
};

__global__ void __launch_bounds__(128)
    prepare_initial_kernel(MemoryScanInitial from, int depth, float* initial, bf16* tiles) {
  __shared__ __align__(1024) bf16 tile[kTileElements];
  const Part part(depth);
  Acc w;
  load_slice(w, part.layer ? from.w2 : from.w1, part.head, part.slice, part.layer, part.slices);
  float4* to = part.at(initial, part.head);
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
    finish_initial_kernel(MemoryScanInitial to, int depth, int heads, int sequences,
                          const float* dinitial) {
  const Part part(depth);
  Acc sum = {};
  for (int sequence = part.head; sequence < sequences; sequence += heads) {
    const float4* from = part.at(dinitial, sequence);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float4 x = from[128 * j];
      sum[4 * j] += x.x, sum[4 * j + 1] += x.y, sum[4 * j + 2] += x.z, sum[4 * j + 3] += x.w;
    }
  }
  store_slice(sum, part.layer ? to.w2 : to.w1, part.head, part.slice, part.layer, part.slices);
}

// A thread a bias of the head; c1 has `first` of them.
__global__ void finish_initial_biases_kernel(MemoryScanInitial to, int first, int heads,
                                             int sequences, const float* dinitial) {
  const int head = blockIdx.x, count = blockDim.x, i = threadIdx.x;
  float sum = 0;
  for (int sequence = head; sequence < sequences; sequence += heads)
    sum += dinitial[sequence * count + i];
  if (i < first) {
    to.c1[head * first + i] = sum;
  } else {
    to.c2[head * (count - first) + i - first] = sum;
  }
}

__global__ void clamp_hits_kernel(const unsigned* hits, float* out) {
  *out = static_cast<float>(*hits);
}

}  // namespace

void launch_prepare_initial(const MemoryScanInitial& from, int depth, int heads, float* initial,
                            bf16* tiles, cudaStream_t stream) {
  const int parts = depth == 1 ? 1 : 2 * kSlices;
  launch_kernel(prepare_initial_kernel, {heads * parts, 128}, stream, from, depth, initial, tiles);
}

void launch_finish_initial(const MemoryScanInitial& to, int depth, const Segment& segment,
                           const float* dinitial, cudaStream_t stream) {
  const int parts = depth == 1 ? 1 : 2 * kSlices;
  launch_kernel(finish_initial_kernel, {segment.heads * parts, 128}, stream, to, depth,
                segment.heads, segment.sequences, dinitial);
}

void launch_finish_initial_biases(const MemoryScanInitial& to, int depth, const Segment& segment,
                                  const float* dinitial_biases, cudaStream_t stream) {
  const int first = depth == 1 ? kTile : kSlices * kTile;
  launch_kernel(finish_initial_biases_kernel, {segment.heads, depth == 1 ? kTile : kBiases}, stream,
                to, first, segment.heads, segment.sequences, dinitial_biases);
}

void launch_clamp_hits(const unsigned* hits, float* out, cudaStream_t stream) {
  launch_kernel(clamp_hits_kernel, {1, 1}, stream, hits, out);
}

}  // namespace mnemo::memory
