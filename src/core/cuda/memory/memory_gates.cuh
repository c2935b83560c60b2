// A chunk's coefficients from its gates, inside a kernel.
#pragma once

#include "src/core/cuda/memory/memory_kernels.cuh"

namespace mnemo::memory {

// A run of tokens maps (W, S) to (a W + b S, e S), its own writes aside.
struct Run {
  float a, b, e;
};

inline constexpr Run kNoTokens = {1, 0, 1};

// eta and 1 - alpha of a token.
__device__ inline float2 eta_keep(const MemoryScanGates& gates, int64_t at) {
  return make_float2(gates.eta == nullptr ? 0 : gates.eta[at],
                     gates.alpha == nullptr ? 1 : 1 - gates.alpha[at]);
}

__device__ inline Run one_token(float eta, float keep) { return {keep, eta, eta}; }

// First x, then y.
__device__ inline Run join(const Run& x, const Run& y) {
  return {x.a * y.a, fmaf(x.b, y.a, x.e * y.b), x.e * y.e};
}

__device__ inline Run shuffle_down(const Run& x, int step) {
  return {__shfl_down_sync(0xffffffffu, x.a, step), __shfl_down_sync(0xffffffffu, x.b, step),
          __shfl_down_sync(0xffffffffu, x.e, step)};
}

__device__ inline Run shuffle_up(const Run& x, int step) {
  return {__shfl_up_sync(0xffffffffu, x.a, step), __shfl_up_sync(0xffffffffu, x.b, step),
          __shfl_up_sync(0xffffffffu, x.e, step)};
}

// Each lane's run joined with all later lanes'.
__device__ inline Run suffix_scan(Run x) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Run after = shuffle_down(x, step);
    if (lane + step < 32) x = join(x, after);
  }
  return x;
}

// Floats a row of G; column 64 holds B_t, column 65 A_t, column 66 what the row is scaled with.
inline constexpr int kGStride = 72;

struct ChunkGates {
  float g[kTile][kGStride];  // G[t][s], zero above the diagonal
  float theta[kTile];
  float2 eta_keep[kTile];  // eta, 1 - alpha
};

// Reads one chunk's gates, threads 0 .. 63; with kRows what rows of G are scaled with, too. Tokens
// past the end have theta = 0 and change nothing.
template <bool kOptions = false, bool kRows = false>
__device__ inline void load_gates(ChunkGates& c, const CommonParams& p, int sequence, int chunk,
                                  int thread) {
  if (thread >= kTile) return;
  const Segment& seg = p.segment;
  const int64_t token = seg.first(chunk) + thread;
  const int64_t at = (sequence / seg.heads * seg.tokens + token) * seg.heads + sequence % seg.heads;
  const bool valid = thread < seg.count(chunk);
  float theta = valid ? p.gates.theta[at] : 0;
  if (kOptions && p.options.clamps())
    theta *= p.options.clamp[(int64_t{sequence} * seg.chunks + chunk) * kClampFloats + thread];
  if (kRows) c.g[thread][kTile + 2] = row_scale_at(p.options.row_scale, min(thread, seg.chunk - 1));
  c.theta[thread] = theta;
  c.eta_keep[thread] = valid ? eta_keep(p.gates, at) : make_float2(1, 1);
}

// Fills G, B and A; warp w of four writes rows 16 w .. +15 and needs no other warp. With the run
// (a, b, e) of the tokens from s + 1 to the row block's first and (a', b', e') of those from there
// to t: G_{t,s} = theta_s ((a + b) a' + e b'). The diagonal block follows the recurrence.
template <bool kRows = false>
__device__ inline void fill_g(ChunkGates& c, int warp) {
  const int lane = threadIdx.x & 31, begin = 16 * warp;
  Run run[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float2 gate = c.eta_keep[2 * lane + i];
    run[i] = 2 * lane < begin ? one_token(gate.x, gate.y) : kNoTokens;
  }
  const Run suffix = suffix_scan(join(run[0], run[1]));
  Run after1 = shuffle_down(suffix, 1);
  if (lane == 31) after1 = kNoTokens;
  const Run after0 = join(run[1], after1);
  const bool before = 2 * lane < begin;
  const float theta0 = before ? c.theta[2 * lane] : 0;
  const float theta1 = before ? c.theta[2 * lane + 1] : 0;
  const float x0 = theta0 * (after0.a + after0.b), y0 = theta0 * after0.e;
  const float x1 = theta1 * (after1.a + after1.b), y1 = theta1 * after1.e;
  // Lane r < 16: the run from the block's first token to its token r.
  const float2 own = c.eta_keep[begin + (lane & 15)];
  Run row = one_token(own.x, own.y);
#pragma unroll
  for (int step = 1; step < 16; step *= 2) {
    const Run earlier = shuffle_up(row, step);
    if ((lane & 15) >= step) row = join(earlier, row);
  }
  const Run all = {__shfl_sync(0xffffffffu, suffix.a, 0), __shfl_sync(0xffffffffu, suffix.b, 0),
                   __shfl_sync(0xffffffffu, suffix.e, 0)};
  if (lane < 16) {
    const Run whole = join(all, row);
    *reinterpret_cast<float2*>(&c.g[begin + lane][kTile]) = make_float2(whole.b, whole.a);
  }
#pragma unroll
  for (int r = 0; r < 16; ++r) {
    const float a = __shfl_sync(0xffffffffu, row.a, r), b = __shfl_sync(0xffffffffu, row.b, r);
    float2 g = make_float2(fmaf(x0, a, y0 * b), fmaf(x1, a, y1 * b));
    if constexpr (kRows) {
      const float scale = c.g[begin + r][kTile + 2];
      g.x *= scale, g.y *= scale;
    }
    *reinterpret_cast<float2*>(&c.g[begin + r][2 * lane]) = g;
  }
  __syncwarp();
  if (lane < 16) {
    const float theta = c.theta[begin + lane];
    float p = 0, g = 0;
#pragma unroll
    for (int r = 0; r < 16; ++r) {
      const float2 gate = c.eta_keep[begin + r];
      p = r == lane ? theta : p * gate.x;
      g = fmaf(g, gate.y, p);
      c.g[begin + r][begin + lane] = kRows ? g * c.g[begin + r][kTile + 2] : g;
    }
  }
}

// G o x, element (row + 8 i, 8 j + col + e) of a thread's product.
__device__ inline void mask(Frag& out, const Acc& x, const ChunkGates& c, int row, int col) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 g = *reinterpret_cast<const float2*>(&c.g[row + 8 * i][8 * j + col]);
      out[2 * j + i] = pack(g.x * x[4 * j + 2 * i], g.y * x[4 * j + 2 * i + 1]);
    }
  }
}

}  // namespace mnemo::memory
