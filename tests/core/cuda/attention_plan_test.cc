// How the deterministic backward pass of attention is cut, which needs no GPU.
#include <gtest/gtest.h>

#include "src/core/cuda/attention.h"

namespace mnemo::cuda {
namespace {

TEST(BackwardPiece, StaysWithinTheWorkspace) {
  constexpr int64_t kLimit = int64_t{2} << 30;
  struct Case {
    int64_t sequences, heads, queries, keys;
    BackwardPiece want;
  };
  for (const Case& c : {
           Case{1, 16, 2048, 2048, {1, 16, 2048}},          // all at once
           Case{8, 16, 4096, 4096, {4, 16, 4096}},          // 64 heads fit: half of the sequences
           Case{7, 16, 4096, 4096, {4, 16, 4096}},          // 4 and 3, not 4, 3
           Case{9, 16, 4096, 4096, {3, 16, 4096}},          // three even pieces
           Case{2, 16, 16384, 16384, {1, 4, 16384}},        // 4 heads of one sequence
           Case{1, 9, 16384, 16384, {1, 3, 16384}},         // three even pieces of heads
           Case{1, 16, 32768, 32768, {1, 1, 32768}},        // a head just fits
           Case{1, 16, 65536, 65536, {1, 1, 16384}},        // a quarter of a head's queries
           Case{1, 1, 100, int64_t{1} << 40, {1, 1, 128}},  // never less than that
       }) {
    const BackwardPiece piece =
        PieceOfBackward({c.sequences, c.heads, c.queries, 64}, c.keys, kLimit);
    EXPECT_EQ(piece, c.want) << c.sequences << " " << c.heads << " " << c.queries;
    if (piece.queries > 128) {
      EXPECT_LE(2 * piece.sequences * piece.heads * piece.queries * c.keys, kLimit);
    }
  }
}

}  // namespace
}  // namespace mnemo::cuda
