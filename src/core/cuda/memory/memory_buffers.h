// How the memory scan's kernels cut a call into segments, and what memory they take for it. Plain
// C++, so that a plan can be made without a GPU. Internal to this folder.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "src/core/cuda/memory/memory_scan.h"

namespace mnemo::memory {

inline constexpr int kTile = 64;                      // rows and columns
inline constexpr int kTileElements = kTile * kTile;   // bf16
inline constexpr int kTileBytes = kTileElements * 2;  // 8 KiB
inline constexpr int kNarrow = 16;                    // rows of a narrow tile (memory_narrow.cuh)
inline constexpr int kNarrowElements = kNarrow * kTile;
inline constexpr int kNarrowBytes = kNarrowElements * 2;  // 2 KiB
inline constexpr int kSlices = 4;                         // hidden 256 = 4 slices of 64
// One state: per slice the tiles W1 [hid, f], W2^T [hid, f], S1, S2^T, swizzled as memory_tile.cuh
// says.
inline constexpr int kStateTiles = 4 * kSlices;
inline constexpr int64_t kStateElements = int64_t{kStateTiles} * kTileElements;
// The state of depth 1: W, S [out, in].
inline constexpr int64_t kFlatStateElements = int64_t{2} * kTileElements;

// Per block: g[64] and p[64] (last rows of G and P), then A, B, E at the chunk's end, padding.
inline constexpr int kCoefficients = 132;
// Tiles of a block's record for the backward pass (memory_kernels.cuh says what they hold).
inline constexpr int kExtraRecordTiles = 11;  // of rules with options, besides
inline constexpr int kWideRecordTiles = 47, kNarrowRecordTiles = 46, kFlatRecordTiles = 8;
inline constexpr int kFlatExtraTiles = 5;  // at depth 1, of rules with options or a norm, besides

// Of rules with options, per block: factors of theta, and 1 / (c^2 + n^2).
inline constexpr int kClampFloats = 2 * kTile;

// Biases of depth 2: c1, then c2.
inline constexpr int kBiases = kSlices * kTile + kTile;

// Sums that the row scale's gradient is first added up in.
inline constexpr int kRowScaleParts = 32;

// The families of kernels: depth 2 in chunks of up to 64 tokens and, for plain rules, of sixteen;
// and depth 1.
enum class Kind { kWide, kNarrow, kFlat };

inline Kind kind_of(const MemoryScanShape& s) {
  if (s.depth == 1) return Kind::kFlat;
  return s.chunk == kNarrow && s.plain() ? Kind::kNarrow : Kind::kWide;
}

inline bool supports(const MemoryScanShape& s) {
  const bool deep = s.depth == 2 && s.hidden == 256;
  const bool flat = s.depth == 1;
  return s.head_dim == 64 && (deep || flat) && (s.chunk == 16 || s.chunk == 32 || s.chunk == 64) &&
         s.batch > 0 && s.heads > 0 && s.tokens > 0;
}

// Of one W or S, of a sequence's whole carry, of a block's state, of its record for backward.
inline int64_t weight_elements(const MemoryScanShape& s) {
  return (s.depth == 1 ? 1 : kSlices) * int64_t{kTileElements};
}
inline int64_t bias_elements(const MemoryScanShape& s) { return s.depth == 1 ? kTile : kBiases; }
inline int64_t carry_elements(const MemoryScanShape& s) {
  return 2 * s.depth * weight_elements(s) + (s.biases ? 2 * bias_elements(s) : 0);
}
inline int64_t initial_elements(const MemoryScanShape& s) { return s.depth * weight_elements(s); }
inline int64_t state_elements(const MemoryScanShape& s) {
  return s.depth == 1 ? kFlatStateElements : kStateElements;
}
inline int64_t record_elements(const MemoryScanShape& s) {
  switch (kind_of(s)) {
    case Kind::kNarrow:
      return int64_t{kNarrowRecordTiles} * kNarrowElements;
    case Kind::kFlat:
      return int64_t{kFlatRecordTiles} * kTileElements;
    default:
      return int64_t{kWideRecordTiles} * kTileElements;
  }
}

// bf16 that backward keeps of a block besides its record.
inline int64_t extra_record_elements(const MemoryScanShape& s) {
  if (kind_of(s) == Kind::kFlat)
    return s.norm || !s.plain() ? int64_t{kFlatExtraTiles} * kTileElements : 0;
  return s.plain() ? 0 : int64_t{kExtraRecordTiles} * kTileElements;
}

// Blocks per segment: enough for the parallel kernels to fill the GPU several times over. The scans
// of 64 sequences fill it too; fewer gain from short segments, whose stages then run side by side.
inline constexpr int64_t kSegmentBlocks = 2048, kSegmentBlocksFewSequences = 1024,
                         kFewSequences = 64;
// Chunks of sixteen tokens have a quarter of the work.
inline constexpr int64_t kNarrowFactor = 2;
// Segments whose states, and whose records for backward, are in flight at a time.
inline constexpr int kForwardSlots = 2, kStateSlots = 3, kKeptSlots = 2;

inline int64_t chunk_count(const MemoryScanShape& s) { return (s.tokens + s.chunk - 1) / s.chunk; }

inline int64_t segment_chunks(const MemoryScanShape& s) {
  const int64_t sequences = s.batch * s.heads;
  const int64_t blocks = (sequences < kFewSequences ? kSegmentBlocksFewSequences : kSegmentBlocks) *
                         (kind_of(s) == Kind::kNarrow ? kNarrowFactor : 1);
  const int64_t most = std::max<int64_t>(1, blocks / sequences);
  const int64_t segments = (chunk_count(s) + most - 1) / most;
  return (chunk_count(s) + segments - 1) / segments;
}

inline int64_t segment_count(const MemoryScanShape& s) {
  return (chunk_count(s) + segment_chunks(s) - 1) / segment_chunks(s);
}

// Hands out parts of a workspace; with a null base it only adds up the bytes.
class Allotment {
 public:
  explicit Allotment(void* base) : base_(static_cast<char*>(base)) {}
  template <typename T>
  T* take(int64_t count) {
    T* p = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (count * sizeof(T) + 1023) / 1024 * 1024;
    return p;
  }
  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

// Half: a type of two bytes, that of states and records.

// What the kernels leave of a segment, for those behind them: every chunk's coefficients and first
// state, of rules with options the clamp's factors and the biases.
template <typename Half>
struct StateBuffers {
  float* coefficients = nullptr;
  Half* states = nullptr;
  float* clamp = nullptr;
  float* biases = nullptr;
};

template <typename Half>
StateBuffers<Half> take_states(const MemoryScanShape& s, int64_t blocks, Allotment& a) {
  StateBuffers<Half> b;
  b.coefficients = a.take<float>(blocks * kCoefficients);
  b.states = a.take<Half>(blocks * state_elements(s));
  if (s.plain()) return b;
  b.clamp = a.take<float>(blocks * kClampFloats);
  if (s.biases) b.biases = a.take<float>(blocks * 2 * bias_elements(s));
  return b;
}

// Of every segment, for backward to compute none of it again; and, where the reads' kernels can
// make them without dy, their records.
template <typename Half>
struct Retained {
  StateBuffers<Half> states;
  Half* record = nullptr;
};

inline bool retains_records(const MemoryScanShape& s) { return kind_of(s) == Kind::kWide; }

// Segment `index` of what lies at `base`; sets `bytes` to what one segment takes.
template <typename Half>
Retained<Half> plan_retained(const MemoryScanShape& s, void* base, int64_t index, size_t& bytes) {
  const int64_t blocks = s.batch * s.heads * segment_chunks(s);
  const auto plan = [&](void* at) {
    Allotment a(at);
    Retained<Half> r{take_states<Half>(s, blocks, a)};
    if (retains_records(s)) r.record = a.take<Half>(blocks * record_elements(s));
    bytes = a.bytes();
    return r;
  };
  plan(nullptr);
  return base == nullptr ? Retained<Half>{} : plan(static_cast<char*>(base) + index * bytes);
}

// What rules with options need besides; all null in plain ones, but for what a norm at depth 1
// keeps.
template <typename Half>
struct OptionBuffers {
  float* initial = nullptr;
  Half* initial_tiles = nullptr;
  unsigned* clamp_hits = nullptr;
  float* dinitial = nullptr;
  float* drows = nullptr;
  float* row_parts = nullptr;
  float* dinitial_biases = nullptr;
  Half* kept[kKeptSlots] = {};
};

template <typename Half>
OptionBuffers<Half> plan_options(const MemoryScanShape& s, Allotment& a, bool backward) {
  OptionBuffers<Half> b;
  const int64_t sequences = s.batch * s.heads, blocks = sequences * segment_chunks(s);
  const int64_t extra = backward ? blocks * extra_record_elements(s) : 0;
  for (int i = 0; extra > 0 && i < kKeptSlots; ++i) b.kept[i] = a.take<Half>(extra);
  if (s.plain()) return b;
  const int64_t weights = initial_elements(s);
  b.initial = a.take<float>(s.heads * weights);
  b.initial_tiles = a.take<Half>(s.heads * weights);
  b.clamp_hits = a.take<unsigned>(1);
  if (backward) b.dinitial = a.take<float>(sequences * weights);
  if (backward && s.biases) b.dinitial_biases = a.take<float>(sequences * bias_elements(s));
  if (backward && s.row_scale) {
    b.drows = a.take<float>(blocks * kTile);
    b.row_parts = a.take<float>(kRowScaleParts * kTile);
  }
  return b;
}

// `retain`: states, and records where they can be, lie elsewhere.
template <typename Half>
struct ForwardBuffers {
  OptionBuffers<Half> options;
  StateBuffers<Half> states[kForwardSlots];
  float* carries;  // two, where the caller keeps no checkpoints
  size_t bytes;
};

template <typename Half>
ForwardBuffers<Half> plan_forward(const MemoryScanShape& s, bool retain, void* workspace) {
  static_assert(sizeof(Half) == 2);
  Allotment a(workspace);
  const int64_t sequences = s.batch * s.heads, blocks = sequences * segment_chunks(s);
  ForwardBuffers<Half> b;
  for (int i = 0; !retain && i < kForwardSlots; ++i) b.states[i] = take_states<Half>(s, blocks, a);
  b.carries = a.take<float>(2 * sequences * carry_elements(s));
  b.options = plan_options<Half>(s, a, false);
  b.bytes = a.bytes();
  return b;
}

template <typename Half>
struct BackwardBuffers {
  OptionBuffers<Half> options;
  StateBuffers<Half> states[kStateSlots];
  Half* kept[kKeptSlots] = {};
  float* carries;     // two states' adjoints, and one state nobody reads
  float* norm_parts;  // [sequences, 64, 2, 64]
  float* norm_reads;  // [sequences, 2, 64]
  size_t bytes;
};

template <typename Half>
BackwardBuffers<Half> plan_backward(const MemoryScanShape& s, bool retained, void* workspace) {
  static_assert(sizeof(Half) == 2);
  Allotment a(workspace);
  const int64_t sequences = s.batch * s.heads, blocks = sequences * segment_chunks(s);
  BackwardBuffers<Half> b;
  for (int i = 0; !retained && i < kStateSlots; ++i) b.states[i] = take_states<Half>(s, blocks, a);
  const bool records = !retained || !retains_records(s);
  for (int i = 0; records && i < kKeptSlots; ++i)
    b.kept[i] = a.take<Half>(blocks * record_elements(s));
  b.carries = a.take<float>(3 * sequences * carry_elements(s));
  b.norm_parts = a.take<float>(sequences * kTile * 2 * kTile);
  b.norm_reads = a.take<float>(sequences * 2 * kTile);
  b.options = plan_options<Half>(s, a, true);
  b.bytes = a.bytes();
  return b;
}

}  // namespace mnemo::memory
