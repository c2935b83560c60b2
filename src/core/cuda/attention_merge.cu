#include <cuda_bf16.h>

#include "src/core/cuda/attention_merge.h"
#include "src/core/cuda/check.h"
#include "src/core/cuda/kernels.h"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;  // bf16 values of 16 bytes

// One thread a vector of one row; the first of a row writes the row's stats.
__global__ void MergeKernel(MergeCall call) {
  const int64_t vectors = call.head_dim / kVector;
  const int64_t total = call.batch * call.tokens * call.heads * vectors;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < total;
       i += gridDim.x * int64_t{kThreads}) {
    const int64_t row = i / vectors;  // (b, t, h)
    const int64_t h = row % call.heads, bt = row / call.heads;
    const int64_t t = bt % call.tokens, b = bt / call.tokens;
    const int64_t stat = (b * call.heads + h) * call.tokens + t;
    float part[kMaxAttentionParts], largest = -INFINITY;
#pragma unroll
    for (int p = 0; p < kMaxAttentionParts; ++p) {
      part[p] = p < call.count ? call.stats[p][stat] : -INFINITY;
      largest = fmaxf(largest, part[p]);
    }
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kMaxAttentionParts; ++p) {
      part[p] = p < call.count ? expf(part[p] - largest) : 0.0f;
      sum += part[p];
    }
    float merged[kVector] = {};
#pragma unroll
    for (int p = 0; p < kMaxAttentionParts; ++p) {
      if (p >= call.count) break;
      const uint4 bits = static_cast<const uint4*>(call.outputs[p])[i];
      const __nv_bfloat16* values = reinterpret_cast<const __nv_bfloat16*>(&bits);
#pragma unroll
      for (int j = 0; j < kVector; ++j) merged[j] += part[p] / sum * __bfloat162float(values[j]);
    }
    uint4 bits;
    __nv_bfloat16* values = reinterpret_cast<__nv_bfloat16*>(&bits);
#pragma unroll
    for (int j = 0; j < kVector; ++j) values[j] = __float2bfloat16_rn(merged[j]);
    static_cast<uint4*>(call.merged)[i] = bits;
    if (i % vectors == 0) call.merged_stats[stat] = largest + logf(sum);
  }
}

}  // namespace

void MergeAttention(const Launch& launch, const MergeCall& call) {
  const int64_t total = call.batch * call.tokens * call.heads * (call.head_dim / kVector);
  if (total == 0) return;
  const int64_t blocks = (total + kThreads - 1) / kThreads;
  const int64_t most = int64_t{launch.multiprocessors} * 16;
  MergeKernel<<<static_cast<unsigned>(blocks < most ? blocks : most), kThreads, 0, launch.stream>>>(
      call);
  MNEMO_CUDA(cudaGetLastError());
}

}  // namespace mnemo::cuda
