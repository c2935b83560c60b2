// The end of a segment's backward pass for chunks of sixteen tokens: dk, the gates' gradients, and
// the reads' part of the norm's. One warp a block.
#include "src/core/cuda/memory/memory_narrow.cuh"

namespace mnemo::memory {
namespace {

constexpr int kWarps = 4;

struct Params {
  CommonParams common;
  Rows dk, dv;
  MemoryScanGates dgates;
  NarrowKept kept;
};

__device__ void key_gradient(const Params& p, int sequence, int64_t first, int count, int block) {
  const Segment& seg = p.common.segment;
  const int f = 2 * (threadIdx.x & 31);
  for (int t = 0; t < count; ++t) {
    float2 sum = tile_pair(p.kept.tile(block, narrow_kept::kDk), t, f);
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      const float2 x = tile_pair(p.kept.tile(block, narrow_kept::kDkPart + slice), t, f);
      sum.x += x.x, sum.y += x.y;
    }
    if (p.common.residual) {  // the error's adjoint is -dv
      const float2 dv =
          unpack(*reinterpret_cast<const uint32_t*>(p.dv.at(seg, sequence, first + t) + f));
      sum.x -= dv.x, sum.y -= dv.y;
    }
    *reinterpret_cast<uint32_t*>(p.dk.at(seg, sequence, first + t) + f) = pack(sum.x, sum.y);
  }
}

// Adjoint of the chunk's coefficients, a lane a column: forward through the recurrences
//   P_t = eta_t P_{t-1} (+ theta_s at t = s),  G_t = (1 - alpha_t) G_{t-1} + P_t,
// then backward. Lane 16 has P = E and G = B, lane 17 P = 0 and G = A.
__device__ void gate_gradient(const Params& p, int block, int64_t gate0, int stride, int count) {
  const int lane = threadIdx.x & 31;
  const bool column = lane < kNarrow, is_b = lane == kNarrow, is_a = lane == kNarrow + 1;
  const MemoryScanGates& gates = p.common.gates;
  float4 dots = reinterpret_cast<const float4*>(p.kept.floats(block, narrow_kept::kDots))[lane];
  dots.x = warp_sum(dots.x), dots.y = warp_sum(dots.y), dots.z = warp_sum(dots.z);
  float dg = is_b ? dots.y : is_a ? dots.x : 0, dp = is_b ? dots.z : 0;
  if (column) {
    for (int i = 0; i < 32; ++i) {
      dg -= p.kept.floats(block, narrow_kept::kDgRow)[i * kNarrow + lane];
      dp -= p.kept.floats(block, narrow_kept::kDpRow)[i * kNarrow + lane];
    }
  }
  // This lane's token, handed out by shuffles.
  float theta = 0;
  float2 mine = make_float2(1, 1);
  if (lane < count) {
    theta = gates.theta[gate0 + lane * stride];
    mine = eta_keep(gates, gate0 + lane * stride);
  }
  float g_before[kNarrow], p_before[kNarrow];
  {
    float pt = is_b ? 1 : 0, gt = is_a ? 1 : 0;
#pragma unroll
    for (int t = 0; t < kNarrow; ++t) {
      g_before[t] = gt, p_before[t] = pt;
      if (t >= count) continue;
      const float eta = __shfl_sync(0xffffffffu, mine.x, t);
      pt = t == lane ? theta : pt * eta;
      gt = fmaf(gt, __shfl_sync(0xffffffffu, mine.y, t), pt);
    }
  }
  float dtheta = 0, dalpha = 0, deta = 0;  // lane t keeps its token's
#pragma unroll
  for (int t = kNarrow - 1; t >= 0; --t) {
    if (t >= count) continue;
    float read = 0;
    if (column && t >= lane) read = p.kept.floats(block, narrow_kept::kDg)[t * kNarrow + lane];
    if (is_b) read = p.kept.floats(block, narrow_kept::kDb)[t];
    if (is_a) read = p.kept.floats(block, narrow_kept::kDa)[t];
    dg += read;
    dp += dg;
    if (t == lane) dtheta = dp;
    const float sum_g = warp_sum(-dg * g_before[t]), sum_p = warp_sum(dp * p_before[t]);
    if (t == lane) dalpha = sum_g, deta = sum_p;
    dg *= __shfl_sync(0xffffffffu, mine.y, t);
    dp *= __shfl_sync(0xffffffffu, mine.x, t);
  }
  if (lane >= count) return;
  p.dgates.theta[gate0 + lane * stride] = dtheta;
  if (p.dgates.alpha != nullptr) p.dgates.alpha[gate0 + lane * stride] = dalpha;
  if (p.dgates.eta != nullptr) p.dgates.eta[gate0 + lane * stride] = deta;
}

__global__ void __launch_bounds__(32 * kWarps)
    narrow_finish_kernel(const __grid_constant__ Params p) {
  const Segment& seg = p.common.segment;
  const int index = blockIdx.x * kWarps + threadIdx.x / 32;
  if (index >= seg.sequences * seg.chunks) return;
  const int head = index % seg.heads;  // neighbours touch the same sectors
  const int chunk = index / seg.heads % seg.chunks;
  const int batch = index / seg.heads / seg.chunks;
  const int sequence = batch * seg.heads + head, block = sequence * seg.chunks + chunk;
  const int64_t first = seg.first(chunk);
  const int count = seg.count(chunk);
  key_gradient(p, sequence, first, count, block);
  gate_gradient(p, block, (batch * seg.tokens + first) * seg.heads + head, seg.heads, count);
}

// The reads' part of the norm's gradients, summed over the segment's chunks.
__global__ void __launch_bounds__(128)
    narrow_norm_kernel(Segment seg, NarrowKept kept, float* norm_reads, bool first) {
  const int sequence = blockIdx.x, thread = threadIdx.x;
  float sum = 0;
  for (int chunk = 0; chunk < seg.chunks; ++chunk)
    sum += kept.floats(sequence * seg.chunks + chunk, narrow_kept::kDgain)[thread];
  float& out = norm_reads[sequence * 2 * kTile + thread];
  out = sum + (first ? 0 : out);
}

}  // namespace

void launch_narrow_finish(const CommonParams& p, const Rows& dk, const Rows& dv,
                          const MemoryScanGates& dgates, const NarrowKept& kept, float* norm_reads,
                          bool first, cudaStream_t stream) {
  const int blocks = p.segment.sequences * p.segment.chunks;
  launch_kernel(narrow_finish_kernel, {(blocks + kWarps - 1) / kWarps, 32 * kWarps}, stream,
                {p, dk, dv, dgates, kept});
  launch_kernel(narrow_norm_kernel, {p.segment.sequences, 128}, stream, p.segment, kept, norm_reads,
                first);
}

}  // namespace mnemo::memory
