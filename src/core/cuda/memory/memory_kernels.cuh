// Launch parameters of the memory-scan kernels and who calls whom. Internal to this folder.
//
// The sequence is cut into segments of chunks; a tile holds a chunk's tokens, zeros below a shorter
// one's; without momentum or forgetting the gates' pointers are null and eta or alpha zero; a
// "block" is one chunk of one head of one batch entry, numbered (batch * heads + head) *
// chunks_in_segment + chunk. Work that depends on the chunk before is in the two scan kernels,
// whose clusters of CTAs share out the hidden units; all else runs in parallel over blocks.
#pragma once

#include <type_traits>

#include "src/core/cuda/memory/memory_scan.h"
#include "src/core/cuda/memory/memory_tile.cuh"

namespace mnemo::memory {

// One segment of the sequence, as every kernel sees it.
struct Segment {
  int heads = 0;
  int sequences = 0;  // batch * heads
  int64_t first_token = 0;
  int64_t tokens = 0;  // of the whole sequence
  int chunks = 0;      // in this segment
  int chunk = kTile;   // tokens of a chunk, at most kTile

  // First token of a chunk, and how many tokens it has.
  __device__ int64_t first(int index) const { return first_token + int64_t{index} * chunk; }
  __device__ int count(int index) const {
    const int64_t left = tokens - first(index);
    return left < chunk ? static_cast<int>(left) : chunk;
  }
};

struct Rows {
  bf16* data;
  int64_t batch_stride, token_stride;
  // Row of a token, for the sequence's head.
  __device__ bf16* at(const Segment& s, int sequence, int64_t token) const {
    const int batch = sequence / s.heads;
    return at(batch, sequence - batch * s.heads, token);
  }
  __device__ bf16* at(int batch, int head, int64_t token) const {
    return data + batch * batch_stride + token * token_stride + head * kTile;
  }
};

template <int kTiles, int kElements, int kFloats>
struct Records {
  bf16* base;
  __device__ bf16* tile(int block, int index) const {
    return base + (int64_t{block} * kTiles + index) * kElements;
  }
  __device__ float* floats(int block, int offset) const {
    return reinterpret_cast<float*>(tile(block, kFloats)) + offset;
  }
};

// What the backward kernels hand each other beside their records when the rule has options.
namespace extra_kept {
inline constexpr int kDinitial = 0;         // fragment, + 2 slice + layer: the reads' part of dW_0
inline constexpr int kReach = 2 * kSlices;  // fp32 rows [token, f], two tiles: see Options
inline constexpr int kFloats = kReach + 2, kTiles = kExtraRecordTiles;
static_assert(kTiles == kFloats + 1);
// Offsets in the tile of floats, [64] each: squared norms of a token's rows, and what its keys are
// to be multiplied with for the clamp's share of dk; then [3][kBiases], what the reads say of the
// adjoints of the biases, of their momenta and of the first biases.
inline constexpr int kK2 = 0, kD2 = 64, kD1 = 128, kKeyScale = 192, kDbiases = 256;
static_assert((kDbiases + 3 * kBiases) * 4 <= kTileBytes);
}  // namespace extra_kept
using ExtraKept = Records<extra_kept::kTiles, kTileElements, extra_kept::kFloats>;

// Of rules with options. Kernels that know them come in two instances; the plain one looks at none
// of this.
//
// The clamp multiplies a token's deltas by phi = 1 / sqrt(1 + n^2 / c^2): the same as theta phi in
// the place of theta, since theta is what a token's writes are multiplied with. scan_states finds
// phi, puts phi g and phi p in the place of g and p, and the kernels behind it use theta phi.
// Backward, with dD the adjoints of the deltas under theta phi, n^2 = |D2|^2 |H|^2 + |D1|^2 |K|^2:
//   kappa = -<dD2, D2> / (c^2 + n^2), dD2 with what comes from D1
//   dD2 += kappa |H|^2 D2    dH += kappa |D2|^2 H    dD1 += kappa |K|^2 D1    dK += kappa |D1|^2 K
// so that dD2 gets kappa times "reach" = |H|^2 D2 + |K|^2 (D1 o act'(Z)) W2^T altogether. A bias is
// a weight whose input is 1: with biases |H|^2 and |K|^2 are one more.
struct Options {
  bool on = false;
  bool towards_initial = false;
  float limit2 = 0;  // c^2; 0 without the clamp
  // W_0 [heads, slice, layer]: fp32 in register order (initial_at), and tiles W1, W2^T.
  const float* initial = nullptr;
  const bf16* initial_tiles = nullptr;
  const float* resets = nullptr;  // [batch, chunks]
  int64_t chunks = 0;             // of the call
  int64_t first_chunk = 0;        // of the segment
  float* clamp = nullptr;         // [blocks, kClampFloats]: phi, then 1 / (c^2 + n^2)
  unsigned* clamp_hits = nullptr;
  float* dinitial = nullptr;  // [sequences, slice, layer], as `initial`
  bool biases = false;
  const float* initial_c1 = nullptr;  // [heads, hidden], at depth 1 [heads, 64]
  const float* initial_c2 = nullptr;  // [heads, 64]
  // Per block: the biases, then their momenta, before the chunk; kBiases of each, 64 at depth 1.
  float* bias_states = nullptr;
  float* dinitial_biases = nullptr;  // [sequences, kBiases or 64]
  const float* row_scale = nullptr;  // [chunk], learned; null: rows of G are not scaled
  float* drows = nullptr;            // [blocks, 64], a block's part of its gradient
  ExtraKept kept{nullptr};

  __host__ __device__ bool clamps() const { return limit2 > 0; }
  // Whether the sequence begins at W_0 in a chunk of the segment.
  __device__ bool reset(int batch, int chunk) const {
    return resets != nullptr && resets[batch * chunks + first_chunk + chunk] != 0;
  }
};

// What row t of G, counted from 0, is multiplied with.
__device__ inline float row_scale_at(const float* learned, int t) {
  return learned == nullptr ? 1 : fmaxf(0, 1.0f / static_cast<float>(t + 1) + learned[t]);
}

// Bias `index` of a sequence or head, of kBiases, in arrays of c1 and c2 or of their momenta; null
// where there are none.
template <typename T>
__device__ inline T* bias_at(T* first, T* second, int64_t owner, int index) {
  constexpr int kHidden = kSlices * kTile;
  if (index < kHidden) return first == nullptr ? nullptr : first + owner * kHidden + index;
  return second == nullptr ? nullptr : second + owner * kTile + index - kHidden;
}

// A thread's part of one slice and layer of W_0 or its gradient, eight of them 128 apart.
template <typename T>
__device__ inline auto initial_at(T* base, int owner, int slice, int layer) {
  using Four = std::conditional_t<std::is_const_v<T>, const float4, float4>;
  return reinterpret_cast<Four*>(base) +
         ((int64_t{owner} * kSlices + slice) * 2 + layer) * (kTileElements / 4) +
         (threadIdx.x & 127);
}

struct CommonParams {
  Segment segment;
  Rows q, k, v;
  MemoryScanGates gates;
  const float* gain;  // null without a norm
  const float* bias;
  const float* coefficients;  // [blocks, kCoefficients]
  bf16* states;               // [blocks, kStateElements], the state before each chunk
  float epsilon;
  bool residual;
  bool gelu;
  Options options;
};

// The head's gains and biases of the norm, by threads 0 .. 63; ones and zeros where rules with
// options have no norm.
template <bool kOptions>
__device__ inline void load_norm_or_ones(float* gain, float* bias, const CommonParams& p,
                                         int head) {
  const int thread = threadIdx.x;
  if (thread >= kTile) return;
  if (kOptions && p.gain == nullptr) {
    gain[thread] = 1, bias[thread] = 0;
  } else {
    gain[thread] = p.gain[head * kTile + thread];
    bias[thread] = p.bias[head * kTile + thread];
  }
}

// What the backward kernels hand each other, one record of kKeptTiles tiles a block. "fragment"
// tiles are in the order of a warpgroup's registers (store_fragment), "image" tiles are swizzled
// as in shared memory. [token, hidden] and [token, f] throughout, weights [hidden, f].
namespace kept {
inline constexpr int kH = 0, kD1 = 1;          // image, + kPerSlice * slice
inline constexpr int kX = 2, kSlopeQ = 3;      // fragment, the same; in the end of the transpose
inline constexpr int kDz1 = kSlopeQ;           // in the end, as kX
inline constexpr int kSlopeK = 4, kCurve = 5;  // fragment; curve = U o act''(Z)
inline constexpr int kPerSlice = 6;
inline constexpr int kD2 = 24;             // image
inline constexpr int kOutput = 25;         // the reads' output, normalised, as kR2
inline constexpr int kReads = kOutput;     // in the end: images of Q, dZ2
inline constexpr int kR1 = 27;             // fragment: G o Q K^T
inline constexpr int kDd2 = 28;            // image
inline constexpr int kXhat = 29;           // fp32 rows [token, f], two tiles
inline constexpr int kR2 = 31, kDg = kR2;  // fp32, register order, two: X H^T, in the end dL/dG
inline constexpr int kDk = 33;             // fragment
inline constexpr int kDh = 34, kDd1 = 38;  // fragment, + slice
inline constexpr int kDkPart = 42;         // fragment, + slice
inline constexpr int kFloats = 46;         // see below
inline constexpr int kTiles = kWideRecordTiles;
// Offsets in the tile of floats.
inline constexpr int kInvDeviation = 0;           // [64], of the keys' layer norm
inline constexpr int kA = 64, kB = 128;           // [64] A_t, B_t
inline constexpr int kDa = 192, kDb = 256;        // [64] dL/dA_t, dL/dB_t, reads' part
inline constexpr int kDgain = 320, kDbias = 384;  // [64] the reads' part
inline constexpr int kDgRow = 448, kDpRow = 960;  // [8][64]: of g and p, by slice, layer
inline constexpr int kDots = 1472;                // [32][4]: <dW', W>, <dW', S>, <dS', S>
inline constexpr int kOutputInvDeviation = 1600;  // [64], of the reads' layer norm
}  // namespace kept

// The same for chunks of sixteen tokens, in narrow tiles (memory_narrow.cuh): [token, hidden] or
// [token, f] images, or [hidden, token] in register order.
namespace narrow_kept {
inline constexpr int kH = 0, kD1 = 1, kX = 2, kDz = 3;  // image, + kPerSlice * slice; dZ of layer 1
inline constexpr int kSlope = 4, kCurve = 5;            // register order, as above
inline constexpr int kDh = 6, kDd1 = 7;                 // register order, the reads' part
inline constexpr int kPerSlice = 8;
inline constexpr int kD2 = 32, kDz2 = 33;  // image
inline constexpr int kDd2 = 34, kDk = 35;  // image, the reads' part
inline constexpr int kDkPart = 36;         // image, + slice
inline constexpr int kXhat = 40;           // fp32 rows [token, f], two tiles
inline constexpr int kFloats = 42;         // four tiles
inline constexpr int kTiles = kNarrowRecordTiles;
// Offsets in the floats.
inline constexpr int kInvDeviation = 0;            // [16]
inline constexpr int kA = 16, kB = 32;             // [16]
inline constexpr int kDa = 48, kDb = 64;           // [16]
inline constexpr int kDgain = 80, kDbias = 144;    // [64]
inline constexpr int kDg = 208;                    // [16][16] dL/dG, the reads' part
inline constexpr int kDots = 464;                  // [32 warps][4]: <dW', W>, <dW', S>, <dS', S>
inline constexpr int kDgRow = 592, kDpRow = 1104;  // [32 warps][16], of g and p
}  // namespace narrow_kept

// The same for depth 1: fragments, [token, out] or [out, in].
namespace flat_kept {
inline constexpr int kD = 0;            // the deltas
inline constexpr int kDd = 1, kDk = 2;  // the reads' part
inline constexpr int kDw = 3, kDs = 4;  // the reads' part
inline constexpr int kDg = 5;           // fp32, two tiles
inline constexpr int kFloats = 7, kTiles = kFlatRecordTiles;
// Offsets in the floats.
inline constexpr int kDa = 0, kDb = 64;           // [64]
inline constexpr int kDgRow = 128, kDpRow = 192;  // [64]
inline constexpr int kDots = 256;                 // [4 warps][4]
inline constexpr int kInvDeviation = 272;         // [64], of the keys' layer norm
inline constexpr int kDgain = 336, kDbias = 400;  // [64] the reads' part
inline constexpr int kDbiases = 464;              // [3][64]: of c, its momentum, the first c
}  // namespace flat_kept

// At depth 1, beside the record, of rules with options or a norm.
namespace flat_extra {
inline constexpr int kDinitial = 0;           // fragment: the reads' part of dW_0
inline constexpr int kXhat = 1;               // fp32, register order, two tiles
inline constexpr int kDwLow = 3, kDsLow = 4;  // what kDw and kDs leave, for alpha with a norm
inline constexpr int kTiles = kFlatExtraTiles;
}  // namespace flat_extra

using Kept = Records<kept::kTiles, kTileElements, kept::kFloats>;
using FlatKept = Records<flat_kept::kTiles, kTileElements, flat_kept::kFloats>;
using FlatExtra = Records<flat_extra::kTiles, kTileElements, 0>;
using NarrowKept = Records<narrow_kept::kTiles, kNarrowElements, narrow_kept::kFloats>;

void launch_gate_coefficients(const CommonParams& p, float* coefficients, cudaStream_t stream);

// W_0 as the kernels of a depth read it, and its gradient back: sums over the batch. Depth 1 has
// one slice and layer.
void launch_prepare_initial(const MemoryScanInitial& from, int depth, int heads, float* initial,
                            bf16* tiles, cudaStream_t stream);
void launch_finish_initial(const MemoryScanInitial& to, int depth, const Segment& segment,
                           const float* dinitial, cudaStream_t stream);
void launch_finish_initial_biases(const MemoryScanInitial& to, int depth, const Segment& segment,
                                  const float* dinitial_biases, cudaStream_t stream);
void launch_clamp_hits(const unsigned* hits, float* out, cudaStream_t stream);

// What the clamp's adjoint needs of the keys; after launch_read_keeping.
void launch_clamp_keys(const CommonParams& p, const Kept& kept, cudaStream_t stream);

// Runs the state through the segment: writes every chunk's first state and the last one.
void launch_scan_states(const CommonParams& p, const MemoryScanCarry& in,
                        const MemoryScanCarry& out, cudaStream_t stream);

void launch_read(const CommonParams& p, const Rows& y, cudaStream_t stream);

// The same, keeping what the backward kernels need; without y where its data is null.
void launch_read_keeping(const CommonParams& p, const Rows& y, const Kept& kept,
                         cudaStream_t stream);

// The reads' adjoint: dq, and what the reads contribute to every other gradient.
void launch_read_backward(const CommonParams& p, const Rows& dy, const Rows& dq, const Kept& kept,
                          cudaStream_t stream);

// Runs the state's adjoint backwards through the segment; dv, and per slice dk. The norm's
// gradients of the key passes go to norm_parts [sequences, 4, 16, 2, 64], added up over segments
// unless `first`.
void launch_scan_adjoint(const CommonParams& p, const MemoryScanCarry& in,
                         const MemoryScanCarry& out, const Rows& dv, const Kept& kept,
                         float* norm_parts, bool first, cudaStream_t stream);

// dk and the gates' gradients from what the others left. Adds the reads' part of the norm's
// gradients to norm_reads [sequences, 2, 64], or sets it if `first`.
void launch_finish_segment(const CommonParams& p, const Rows& dk, const Rows& dv,
                           const MemoryScanGates& dgates, const Kept& kept, float* norm_reads,
                           bool first, cudaStream_t stream);

// Sums `parts` of the key passes' parts a sequence.
void launch_finish_norm(const Segment& segment, int parts, const float* norm_parts,
                        const float* norm_reads, float* dgain, float* dbias, cudaStream_t stream);

// Adds the segment's part of the row scale's gradient to row_parts [kRowScaleParts, 64], or sets it
// if `first`; and the sum, at the end.
void launch_row_scale_parts(const CommonParams& p, float* row_parts, bool first,
                            cudaStream_t stream);
void launch_finish_row_scale(const float* row_parts, const float* row_scale, int chunk, float* out,
                             cudaStream_t stream);

// What the four above go to for rules with options: instances in files of their own, so that the
// compiler makes of the plain ones what it would without these.
void launch_scan_states_options(const CommonParams& p, const MemoryScanCarry& in,
                                const MemoryScanCarry& out, cudaStream_t stream);
void launch_read_backward_options(const CommonParams& p, const Rows& dy, const Rows& dq,
                                  const Kept& kept, cudaStream_t stream);
void launch_scan_adjoint_options(const CommonParams& p, const MemoryScanCarry& in,
                                 const MemoryScanCarry& out, const Rows& dv, const Kept& kept,
                                 float* norm_parts, bool first, cudaStream_t stream);
void launch_read_options(const CommonParams& p, const Rows& y, cudaStream_t stream);
void launch_read_keeping_options(const CommonParams& p, const Rows& y, const Kept& kept,
                                 cudaStream_t stream);

// The same for chunks of sixteen tokens. launch_narrow_read_backward also takes the whole adjoint
// of the reads and the key passes' derivatives, so that only the state's adjoint remains;
// launch_narrow_adjoint adds to norm_parts [sequences, 16, 2, 64].
void launch_narrow_states(const CommonParams& p, const MemoryScanCarry& in,
                          const MemoryScanCarry& out, cudaStream_t stream);
void launch_narrow_read(const CommonParams& p, const Rows& y, cudaStream_t stream);
void launch_narrow_read_backward(const CommonParams& p, const Rows& dy, const Rows& dq,
                                 const NarrowKept& kept, cudaStream_t stream);
void launch_narrow_adjoint(const CommonParams& p, const MemoryScanCarry& in,
                           const MemoryScanCarry& out, const Rows& dv, const NarrowKept& kept,
                           float* norm_parts, cudaStream_t stream);
void launch_narrow_finish(const CommonParams& p, const Rows& dk, const Rows& dv,
                          const MemoryScanGates& dgates, const NarrowKept& kept, float* norm_reads,
                          bool first, cudaStream_t stream);

// The same for depth 1. launch_flat_adjoint writes all of dk and dv, and adds to norm_parts
// [sequences, kFlatNormParts, 2, 64]; launch_flat_finish the gates'.
inline constexpr int kFlatNormParts = 32;
void launch_flat_states(const CommonParams& p, const MemoryScanCarry& in,
                        const MemoryScanCarry& out, cudaStream_t stream);
void launch_flat_read(const CommonParams& p, const Rows& y, cudaStream_t stream);
void launch_flat_read_backward(const CommonParams& p, const Rows& dy, const Rows& dq,
                               const FlatKept& kept, cudaStream_t stream);
void launch_flat_adjoint(const CommonParams& p, const MemoryScanCarry& in,
                         const MemoryScanCarry& out, const Rows& dk, const Rows& dv,
                         const FlatKept& kept, float* norm_parts, cudaStream_t stream);
void launch_flat_finish(const CommonParams& p, const MemoryScanGates& dgates, const FlatKept& kept,
                        float* norm_reads, bool first, cudaStream_t stream);

}  // namespace mnemo::memory
