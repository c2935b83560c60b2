#include "src/core/counted/memory_scan_sizes.h"

#include <algorithm>
#include <cstdint>

// Follows cuda/memory/memory_scan.cu, whose comments say why.
namespace mnemo::counted {
namespace {

constexpr int64_t kTile = 64, kTileElements = kTile * kTile, kNarrow = 16, kSlices = 4;
constexpr int64_t kCoefficients = 132;
constexpr int64_t kWideRecord = 63 * kTileElements, kNarrowRecord = 46 * kNarrow * kTile,
                  kFlatRecord = 8 * kTileElements;
constexpr int64_t kExtraRecord = 11 * kTileElements, kClampFloats = 2 * kTile;
constexpr int64_t kForwardSlots = 2, kStateSlots = 3, kKeptSlots = 2;
constexpr int64_t kFloat = 4, kHalf = 2;

int64_t WeightElements(const MemoryScanShape& s) {
  return (s.depth == 1 ? 1 : kSlices) * kTileElements;
}

int64_t CarryElements(const MemoryScanShape& s) { return 2 * s.depth * WeightElements(s); }

int64_t StateElements(const MemoryScanShape& s) {
  return (s.depth == 1 ? 2 : 4 * kSlices) * kTileElements;
}

int64_t RecordElements(const MemoryScanShape& s) {
  return s.depth == 1 ? kFlatRecord : s.chunk == kNarrow ? kNarrowRecord : kWideRecord;
}

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t SegmentChunks(const MemoryScanShape& s) {
  const int64_t sequences = s.batch * s.heads, chunks = DivideUp(s.tokens, s.chunk);
  const int64_t narrow = s.depth > 1 && s.chunk == kNarrow ? 2 : 1;
  const int64_t most = std::max<int64_t>(1, (sequences < 64 ? 1024 : 2048) * narrow / sequences);
  return DivideUp(chunks, DivideUp(chunks, most));
}

// Of parts that begin at multiples of 1,024 bytes.
class Sum {
 public:
  void Add(int64_t count, int64_t size) { bytes_ += DivideUp(count * size, 1024) * 1024; }
  size_t bytes() const { return static_cast<size_t>(bytes_); }

 private:
  int64_t bytes_ = 0;
};

void AddStates(const MemoryScanShape& s, int64_t slots, Sum& sum) {
  const int64_t blocks = s.batch * s.heads * SegmentChunks(s);
  for (int64_t i = 0; i < slots; ++i) {
    sum.Add(blocks * kCoefficients, kFloat);
    sum.Add(blocks * StateElements(s), kHalf);
  }
}

// Of rules with options.
void AddOptions(const MemoryScanShape& s, int64_t slots, bool backward, Sum& sum) {
  if (s.plain()) return;
  const int64_t sequences = s.batch * s.heads, blocks = sequences * SegmentChunks(s);
  const int64_t weights = 2 * kSlices * kTileElements;
  sum.Add(s.heads * weights, kFloat);
  sum.Add(s.heads * weights, kHalf);
  sum.Add(1, kFloat);
  if (backward) sum.Add(sequences * weights, kFloat);
  for (int64_t i = 0; i < slots; ++i) sum.Add(blocks * kClampFloats, kFloat);
  for (int64_t i = 0; backward && i < kKeptSlots; ++i) sum.Add(blocks * kExtraRecord, kHalf);
}

}  // namespace

bool MemoryScanSupports(const MemoryScanShape& s) {
  const bool deep = s.depth == 2 && s.hidden == 256 && s.norm;
  const bool flat = s.depth == 1 && !s.norm;
  const bool options = s.plain() || (deep && s.chunk != kNarrow);
  return s.head_dim == 64 && (deep || flat) && options &&
         (s.chunk == 16 || s.chunk == 32 || s.chunk == 64) && s.batch > 0 && s.heads > 0 &&
         s.tokens > 0;
}

size_t MemoryScanForwardWorkspace(const MemoryScanShape& s) {
  Sum sum;
  AddStates(s, kForwardSlots, sum);
  sum.Add(2 * s.batch * s.heads * CarryElements(s), kFloat);
  AddOptions(s, kForwardSlots, false, sum);
  return sum.bytes();
}

size_t MemoryScanBackwardWorkspace(const MemoryScanShape& s) {
  const int64_t sequences = s.batch * s.heads;
  Sum sum;
  AddStates(s, kStateSlots, sum);
  for (int64_t i = 0; i < kKeptSlots; ++i) {
    sum.Add(sequences * SegmentChunks(s) * RecordElements(s), kHalf);
  }
  sum.Add(3 * sequences * CarryElements(s), kFloat);
  sum.Add(sequences * kTile * 2 * kTile, kFloat);
  sum.Add(sequences * 2 * kTile, kFloat);
  AddOptions(s, kStateSlots, true, sum);
  return sum.bytes();
}

size_t MemoryScanCheckpointBytes(const MemoryScanShape& s) {
  const int64_t segments = DivideUp(DivideUp(s.tokens, s.chunk), SegmentChunks(s));
  return static_cast<size_t>(segments * s.batch * s.heads * CarryElements(s) * kFloat);
}

}  // namespace mnemo::counted
