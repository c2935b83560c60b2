// The attention of a GPU, by cuDNN and its merged runs of keys.
#include <gtest/gtest.h>

#include "src/core/fused/attention.h"
#include "tests/core/cuda/fused_compare.h"

namespace mnemo {
namespace {

// bf16 probabilities inside, and outputs: a few roundings.
void CompareAttention(const Function& f, const std::vector<Values>& inputs) {
  CompareFused("attention", f, inputs, 6e-3, 1.2e-2);
}

TEST(FusedKernels, AttentionOverOneRun) {
  struct Case {
    int64_t batch, heads, queries, keys, f, window;
  };
  for (const Case& c : {Case{2, 3, 128, 128, 64, 0}, Case{1, 2, 300, 300, 64, 0},
                        Case{2, 2, 256, 256, 128, 0}, Case{2, 2, 512, 512, 64, 100},
                        Case{2, 1, 1300, 1300, 64, 100}, Case{1, 2, 700, 740, 64, 100},
                        Case{1, 2, 128, 255, 64, 128}, Case{1, 2, 192, 1000, 64, 300},
                        Case{1, 1, 64, 64, 32, 0}, Case{2, 4, 1024, 3071, 64, 2048}}) {
    SCOPED_TRACE(
        fmt::format("{} {} {} {} {} {}", c.batch, c.heads, c.queries, c.keys, c.f, c.window));
    CompareAttention(
        [&](std::span<const Var> x) {
          const std::vector<KeyRun> runs = {{x[1], x[2], 0}};
          return std::vector<Var>{
              Attention(x[0], {}, {}, runs, {c.keys - c.queries, c.window, {}})};
        },
        {Normal({c.batch, c.heads, c.queries, c.f}, "q"),
         Normal({c.batch, c.heads, c.keys, c.f}, "k"),
         Normal({c.batch, c.heads, c.keys, c.f}, "v")});
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

}  // namespace
}  // namespace mnemo
