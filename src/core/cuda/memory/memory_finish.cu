// The end of a segment's backward pass: dk from its parts, the gates' gradients, the norm's.
#include "src/core/cuda/memory/memory_gates.cuh"
#include "src/core/cuda/memory/memory_rows.cuh"

namespace mnemo::memory {
namespace {

constexpr int kColumns = kTile + 2;  // of G, then B (with E as its P) and A
constexpr int kStride = kTile + 3;   // odd: rows and columns are both read without conflicts

struct GateStorage {
  float g[kTile][kStride], p[kTile][kStride];  // G and P, then what each adds to alpha's, eta's
  float dg[kTile][kStride];
  float theta[kTile], eta[kTile], keep[kTile];
  float last_g[kColumns], last_p[kColumns];  // adjoints that reach only the last row
};

struct Params {
  CommonParams common;
  Rows dk, dv;
  Kept kept;
};

// Where a record of either depth has what the gates' gradients need.
struct WideLayout {
  using Kept = memory::Kept;
  static constexpr int kDg = kept::kDg, kDa = kept::kDa, kDb = kept::kDb;
  static constexpr int kDgRow = kept::kDgRow, kDpRow = kept::kDpRow, kRows = 2 * kSlices;
  static constexpr int kDots = kept::kDots, kDotCount = 32, kDgain = kept::kDgain;
};
struct FlatLayout {
  using Kept = FlatKept;
  static constexpr int kDg = flat_kept::kDg, kDa = flat_kept::kDa, kDb = flat_kept::kDb;
  static constexpr int kDgRow = flat_kept::kDgRow, kDpRow = flat_kept::kDpRow, kRows = 1;
  static constexpr int kDots = flat_kept::kDots, kDotCount = 4, kDgain = flat_kept::kDgain;
};

__global__ void __launch_bounds__(128) key_gradient_kernel(const __grid_constant__ Params p) {
  __shared__ __align__(1024) bf16 tile[kTileElements];
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  const int block = blockIdx.x, sequence = block / seg.chunks;
  const int64_t first = seg.first(block % seg.chunks);
  const int count = seg.count(block % seg.chunks);
  copy_rows_async(tile, p.dv.at(seg, sequence, first), p.dv.token_stride, count, thread);
  copy_commit();
  Acc sum;
  Frag x;
  load_fragment(x, p.kept.tile(block, kept::kDk));
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(x[i]);
    sum[2 * i] = v.x, sum[2 * i + 1] = v.y;
  }
  for (int slice = 0; slice < kSlices; ++slice) {
    load_fragment(x, p.kept.tile(block, kept::kDkPart + slice));
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 v = unpack(x[i]);
      sum[2 * i] += v.x, sum[2 * i + 1] += v.y;
    }
  }
  copy_wait<0>();
  __syncthreads();
  if (p.common.residual) {  // the error's adjoint is -dv
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 dv = tile_pair(tile, row + 8 * i, 8 * j + col);
        sum[4 * j + 2 * i] -= dv.x, sum[4 * j + 2 * i + 1] -= dv.y;
      }
    }
  }
  if (p.common.options.clamps()) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (row + 8 * i >= count) continue;
      const float scale = *p.common.options.kept.floats(block, extra_kept::kKeyScale + row + 8 * i);
      const bf16* key = p.common.k.at(seg, sequence, first + row + 8 * i) + col;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float2 k = unpack(*reinterpret_cast<const uint32_t*>(key + 8 * j));
        sum[4 * j + 2 * i] = fmaf(scale, k.x, sum[4 * j + 2 * i]);
        sum[4 * j + 2 * i + 1] = fmaf(scale, k.y, sum[4 * j + 2 * i + 1]);
      }
    }
  }
  to_frag(x, sum);
  __syncwarp();
  store_frag(tile, x);
  __syncthreads();
  write_rows(p.dk.at(seg, sequence, first), p.dk.token_stride, tile, count, thread);
}

// Adjoint of the chunk's coefficients. One thread a column: forward through the recurrences
//   P_t = eta_t P_{t-1} (+ theta_s at t = s),  G_t = (1 - alpha_t) G_{t-1} + P_t,
// then backward. Column 64 has P = E and G = B, column 65 P = 0 and G = A.
// `clamp`, if not null, has [blocks, kClampFloats] factors of theta. With kRows rows of G are
// scaled by row_scale (Options): what comes in is the adjoint of the scaled rows.
template <typename Layout, bool kRows>
__global__ void __launch_bounds__(128)
    gate_gradient_kernel(Segment seg, MemoryScanGates gates, MemoryScanGates dgates,
                         typename Layout::Kept kept, const float* clamp, const float* row_scale,
                         float* drows) {
  MNEMO_SHARED_MEMORY(raw);
  GateStorage& s = *reinterpret_cast<GateStorage*>(raw);
  const int thread = threadIdx.x;
  const int head = blockIdx.x % seg.heads;  // neighbours touch the same sectors
  const int chunk = blockIdx.x / seg.heads % seg.chunks;
  const int batch = blockIdx.x / seg.heads / seg.chunks;
  const int block = (batch * seg.heads + head) * seg.chunks + chunk;
  const int64_t first = seg.first(chunk);
  const int count = seg.count(chunk);
  const int64_t gate = (batch * seg.tokens + first + thread) * seg.heads + head;
  const float4* dg = reinterpret_cast<const float4*>(kept.tile(block, Layout::kDg)) + thread;
  const int row = 16 * (thread >> 5) + (thread & 31) / 4, col = 2 * (thread & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 v = dg[128 * j];
    s.dg[row][8 * j + col] = v.x, s.dg[row][8 * j + col + 1] = v.y;
    s.dg[row + 8][8 * j + col] = v.z, s.dg[row + 8][8 * j + col + 1] = v.w;
  }
  float factor = 1;
  if (thread < kTile) {
    const bool valid = thread < count;
    if (clamp != nullptr) factor = clamp[int64_t{block} * kClampFloats + thread];
    s.theta[thread] = valid ? factor * gates.theta[gate] : 0;
    const float2 eta_keep_t = valid ? eta_keep(gates, gate) : make_float2(0, 0);
    s.eta[thread] = eta_keep_t.x, s.keep[thread] = eta_keep_t.y;
    s.dg[thread][kTile] = kept.floats(block, Layout::kDb)[thread];
    s.dg[thread][kTile + 1] = kept.floats(block, Layout::kDa)[thread];
    float sum_g = 0, sum_p = 0;
    for (int i = 0; i < Layout::kRows; ++i) {
      sum_g += kept.floats(block, Layout::kDgRow)[i * kTile + thread];
      sum_p += kept.floats(block, Layout::kDpRow)[i * kTile + thread];
    }
    s.last_g[thread] = -sum_g;
    s.last_p[thread] = -sum_p;
  } else if (thread < kTile + 32) {  // one warp: <dW', W>, <dW', S>, <dS', S>
    float4 x = make_float4(0, 0, 0, 0);
    if (thread - kTile < Layout::kDotCount)
      x = reinterpret_cast<const float4*>(kept.floats(block, Layout::kDots))[thread - kTile];
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      x.x += __shfl_xor_sync(0xffffffffu, x.x, lanes);
      x.y += __shfl_xor_sync(0xffffffffu, x.y, lanes);
      x.z += __shfl_xor_sync(0xffffffffu, x.z, lanes);
    }
    if (thread == kTile) {
      s.last_g[kTile] = x.y, s.last_p[kTile] = x.z;
      s.last_g[kTile + 1] = x.x, s.last_p[kTile + 1] = 0;
    }
  }
  __syncthreads();
  if (thread < kColumns) {
    const float p_start = thread == kTile ? 1 : 0, g_start = thread == kTile + 1 ? 1 : 0;
    float pt = p_start, gt = g_start;
    for (int t = 0; t < count; ++t) {
      pt = t == thread ? s.theta[t] : pt * s.eta[t];
      gt = fmaf(gt, s.keep[t], pt);
      s.p[t][thread] = pt;
      s.g[t][thread] = gt;
    }
    float dgt = s.last_g[thread], dpt = s.last_p[thread];
    for (int t = count - 1; t >= 0; --t) {
      float read = t >= thread || thread >= kTile ? s.dg[t][thread] : 0;
      if (kRows && thread < kTile) {
        if (t == count - 1) read += dgt, dgt = 0;
        s.dg[t][thread] = read * s.g[t][thread];
        read *= row_scale_at(row_scale, t);
      }
      dgt += read;
      dpt += dgt;
      if (t == thread) dgates.theta[gate] = factor * dpt;
      const float g_before = t > 0 ? s.g[t - 1][thread] : g_start;
      const float p_before = t > 0 ? s.p[t - 1][thread] : p_start;
      s.g[t][thread] = -dgt * g_before;
      s.p[t][thread] = dpt * p_before;
      dgt *= s.keep[t];
      dpt *= s.eta[t];
    }
  }
  __syncthreads();
  if (thread < count) {
    float dalpha = 0, deta = 0;
    for (int column = 0; column < kColumns; ++column) {
      dalpha += s.g[thread][column];
      deta += s.p[thread][column];
    }
    if (dgates.alpha != nullptr) dgates.alpha[gate] = dalpha;
    if (dgates.eta != nullptr) dgates.eta[gate] = deta;
  }
  if (kRows && thread < kTile) {
    float sum = 0;
    for (int column = 0; column < kTile && thread < count; ++column) sum += s.dg[thread][column];
    drows[int64_t{block} * kTile + thread] = sum;
  }
}

__global__ void __launch_bounds__(256)
    row_scale_parts_kernel(int blocks, const float* drows, float* row_parts, bool first) {
  __shared__ float sums[4][kTile];
  const int row = threadIdx.x % kTile, part = threadIdx.x / kTile;
  float sum = 0;
  for (int block = 4 * blockIdx.x + part; block < blocks; block += 4 * kRowScaleParts)
    sum += drows[int64_t{block} * kTile + row];
  sums[part][row] = sum;
  __syncthreads();
  if (part > 0) return;
  sum = sums[0][row] + sums[1][row] + sums[2][row] + sums[3][row];
  float& out = row_parts[blockIdx.x * kTile + row];
  out = sum + (first ? 0 : out);
}

__global__ void __launch_bounds__(kTile)
    finish_row_scale_kernel(const float* row_parts, const float* row_scale, int chunk, float* out) {
  const int row = threadIdx.x;
  if (row >= chunk) return;
  float sum = 0;
  for (int i = 0; i < kRowScaleParts; ++i) sum += row_parts[i * kTile + row];
  out[row] = row_scale_at(row_scale, row) > 0 ? sum : 0;
}

// The reads' part of the norm's gradients, summed over the segment's chunks.
template <typename Layout>
__global__ void __launch_bounds__(128)
    norm_reads_kernel(Segment seg, typename Layout::Kept kept, float* norm_reads, bool first) {
  const int sequence = blockIdx.x, thread = threadIdx.x;
  float sum = 0;
  for (int chunk = 0; chunk < seg.chunks; ++chunk)
    sum += kept.floats(sequence * seg.chunks + chunk, Layout::kDgain)[thread];
  float& out = norm_reads[sequence * 2 * kTile + thread];
  out = sum + (first ? 0 : out);
}

__global__ void __launch_bounds__(128)
    finish_norm_kernel(Segment seg, int parts, const float* norm_parts, const float* norm_reads,
                       float* dgain, float* dbias) {
  const int head = blockIdx.x, thread = threadIdx.x;
  float sum = 0;
  for (int sequence = head; sequence < seg.sequences; sequence += seg.heads) {
    sum += norm_reads[sequence * 2 * kTile + thread];
    for (int part = 0; part < parts; ++part)
      sum += norm_parts[(int64_t{sequence} * parts + part) * 2 * kTile + thread];
  }
  (thread < kTile ? dgain : dbias)[head * kTile + thread % kTile] = sum;
}

template <typename Layout, bool kRows>
void launch_gate_gradient(const CommonParams& p, const MemoryScanGates& dgates,
                          const typename Layout::Kept& kept, cudaStream_t stream) {
  const Options& o = p.options;
  launch_kernel(gate_gradient_kernel<Layout, kRows>,
                {p.segment.sequences * p.segment.chunks, 128, sizeof(GateStorage)}, stream,
                p.segment, p.gates, dgates, kept, o.clamps() ? o.clamp : nullptr, o.row_scale,
                o.drows);
}

template <typename Layout>
void gate_gradient(const CommonParams& p, const MemoryScanGates& dgates,
                   const typename Layout::Kept& kept, cudaStream_t stream) {
  if (p.options.row_scale != nullptr) {
    launch_gate_gradient<Layout, true>(p, dgates, kept, stream);
  } else {
    launch_gate_gradient<Layout, false>(p, dgates, kept, stream);
  }
}

}  // namespace

void launch_finish_segment(const CommonParams& p, const Rows& dk, const Rows& dv,
                           const MemoryScanGates& dgates, const Kept& kept, float* norm_reads,
                           bool first, cudaStream_t stream) {
  const int blocks = p.segment.sequences * p.segment.chunks;
  launch_kernel(key_gradient_kernel, {blocks, 128}, stream, {p, dk, dv, kept});
  gate_gradient<WideLayout>(p, dgates, kept, stream);
  if (p.gain == nullptr) return;
  launch_kernel(norm_reads_kernel<WideLayout>, {p.segment.sequences, 128}, stream, p.segment, kept,
                norm_reads, first);
}

void launch_flat_finish(const CommonParams& p, const MemoryScanGates& dgates, const FlatKept& kept,
                        float* norm_reads, bool first, cudaStream_t stream) {
  gate_gradient<FlatLayout>(p, dgates, kept, stream);
  if (p.gain == nullptr) return;
  launch_kernel(norm_reads_kernel<FlatLayout>, {p.segment.sequences, 128}, stream, p.segment, kept,
                norm_reads, first);
}

void launch_row_scale_parts(const CommonParams& p, float* row_parts, bool first,
                            cudaStream_t stream) {
  launch_kernel(row_scale_parts_kernel, {kRowScaleParts, 256}, stream,
                p.segment.sequences * p.segment.chunks, p.options.drows, row_parts, first);
}

void launch_finish_row_scale(const float* row_parts, const float* row_scale, int chunk, float* out,
                             cudaStream_t stream) {
  launch_kernel(finish_row_scale_kernel, {1, kTile}, stream, row_parts, row_scale, chunk, out);
}

void launch_finish_norm(const Segment& segment, int parts, const float* norm_parts,
                        const float* norm_reads, float* dgain, float* dbias, cudaStream_t stream) {
  launch_kernel(finish_norm_kernel, {segment.heads, 128}, stream, segment, parts, norm_parts,
                norm_reads, dgain, dbias);
}

}  // namespace mnemo::memory
