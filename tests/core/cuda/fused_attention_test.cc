// The attention of a GPU, by cuDNN and its merged runs of keys.
#include <gtest/gtest.h>

#include "src/core/cuda/attention.h"
#include "src/core/fused/attention.h"
#include "tests/core/cuda/fused_compare.h"

namespace mnemo {
namespace {

// bf16 probabilities inside, and outputs: a few roundings.
void CompareAttention(const Function& f, const std::vector<Values>& inputs) {
  CompareFused("attention", f, inputs, 6e-3, 1.2e-2);
}

// One run of keys, of which the last is the last query's own.
struct OneRun {
  int64_t batch, heads, queries, keys, f, window;
};

void CompareOneRun(const OneRun& c) {
  SCOPED_TRACE(
      fmt::format("{} {} {} {} {} {}", c.batch, c.heads, c.queries, c.keys, c.f, c.window));
  CompareAttention(
      [&](std::span<const Var> x) {
        const std::vector<KeyRun> runs = {{x[1], x[2], 0}};
        return std::vector<Var>{Attention(x[0], {}, {}, runs, {c.keys - c.queries, c.window, {}})};
      },
      {Normal({c.batch, c.heads, c.queries, c.f}, "q"),
       Normal({c.batch, c.heads, c.keys, c.f}, "k"), Normal({c.batch, c.heads, c.keys, c.f}, "v")});
}

TEST(FusedKernels, AttentionOverOneRun) {
  for (const OneRun& c : {OneRun{2, 3, 128, 128, 64, 0}, OneRun{1, 2, 300, 300, 64, 0},
                          OneRun{2, 2, 256, 256, 128, 0}, OneRun{2, 2, 512, 512, 64, 100},
                          OneRun{2, 1, 1300, 1300, 64, 100}, OneRun{1, 2, 700, 740, 64, 100},
                          OneRun{1, 2, 128, 255, 64, 128}, OneRun{1, 2, 192, 1000, 64, 300},
                          OneRun{1, 1, 64, 64, 32, 0}, OneRun{2, 4, 1024, 3071, 64, 2048}}) {
    CompareOneRun(c);
  }
}

TEST(FusedKernels, AttentionOverAWindowBeforeTheSliceAndPersistentKeys) {
  constexpr int64_t kKept = 127, kRows = 256, kHeads = 2, kBatch = 2, f = 64;
  CompareAttention(
      [&](std::span<const Var> x) {
        const std::vector<KeyRun> runs = {{x[3], x[4], 1000 - kKept}, {x[5], x[6], 1000}};
        return std::vector<Var>{Attention(x[0], x[1], x[2], runs, {1000, 128, {}})};
      },
      {Normal({kBatch, kHeads, kRows, f}, "q"), Normal({1, kHeads, 16, f}, "pk"),
       Normal({1, kHeads, 16, f}, "pv"), Normal({kBatch, kHeads, kKept, f}, "bk"),
       Normal({kBatch, kHeads, kKept, f}, "bv"), Normal({kBatch, kHeads, kRows, f}, "k"),
       Normal({kBatch, kHeads, kRows, f}, "v")});
}

// MAC: persistent keys, recalled h and the segment itself, at the same positions.
TEST(FusedKernels, AttentionOfASegment) {
  constexpr int64_t kRows = 256, kHeads = 2, kBatch = 3, f = 64;
  CompareAttention(
      [&](std::span<const Var> x) {
        const std::vector<KeyRun> runs = {{x[3], x[4], 512}, {x[5], x[6], 512}};
        return std::vector<Var>{Attention(x[0], x[1], x[2], runs, {512, 0, {}})};
      },
      {Normal({kBatch, kHeads, kRows, f}, "q"), Normal({1, kHeads, 8, f}, "pk"),
       Normal({1, kHeads, 8, f}, "pv"), Normal({kBatch, kHeads, kRows, f}, "hk"),
       Normal({kBatch, kHeads, kRows, f}, "hv"), Normal({kBatch, kHeads, kRows, f}, "k"),
       Normal({kBatch, kHeads, kRows, f}, "v")});
}

// Multiples of 8 that are no power of two, and the smallest.
TEST(FusedKernels, AttentionOfOtherHeadDims) {
  for (const int64_t f : {8, 16, 40, 72, 96, 120}) {
    CompareOneRun({2, 2, 192, 192, f, 0});
    CompareOneRun({1, 2, 200, 299, f, 100});
  }
}

// cuDNN's other backward pass, whole and, as keys come before the queries, in blocks of a window
// (PlanWindow where `deterministic` is false).
TEST(FusedKernels, AttentionInAnyOrder) {
  SetFusedPolicy({.deterministic = false});
  for (const OneRun& c : {OneRun{2, 3, 128, 128, 64, 0}, OneRun{1, 2, 300, 300, 128, 0},
                          OneRun{2, 2, 512, 512, 64, 100}, OneRun{1, 2, 192, 1000, 64, 300},
                          OneRun{2, 2, 512, 611, 64, 100}}) {
    CompareOneRun(c);
  }
  SetFusedPolicy({});
}

// Every cut of PlanBackward that a limit on the scores' gradients brings about, by cuDNN itself;
// attention_calls_test.cc counts the calls of such cuts.
TEST(FusedKernels, AttentionInPieces) {
  constexpr int64_t kTile = cuda::SdpaScoreBytes(128, 128);
  struct Case {
    OneRun run;
    int64_t scores;
  };
  for (const Case& c : {Case{{3, 2, 200, 200, 64, 0}, 4 * 2 * kTile},    // sequence by sequence
                        Case{{5, 2, 200, 200, 64, 0}, 4 * 4 * kTile},    // two at a time, and one
                        Case{{2, 3, 256, 256, 64, 0}, 4 * kTile},        // head by head
                        Case{{1, 5, 256, 256, 64, 0}, 4 * 2 * kTile},    // two heads, and one
                        Case{{1, 2, 384, 384, 64, 0}, 4 * kTile},        // queries of a head
                        Case{{1, 2, 256, 356, 64, 0}, 3 * kTile},        // the same, older keys
                        Case{{1, 2, 640, 640, 64, 500}, 4 * kTile},      // and a wide window
                        Case{{1, 4, 512, 639, 64, 128}, 8 * 2 * kTile},  // blocks of two heads
                        Case{{1, 2, 640, 767, 64, 128}, 2 * 2 * kTile},  // two blocks of a head
                        Case{{1, 2, 700, 740, 64, 100}, 2 * 2 * kTile}}) {  // shorter first block
    SCOPED_TRACE(c.scores / kTile);
    cuda::RegisterAttention(c.scores);
    CompareOneRun(c.run);
  }
  cuda::RegisterAttention();
}

}  // namespace
}  // namespace mnemo
