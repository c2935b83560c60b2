// Matrix products of a warpgroup, warp by warp.
#include <cmath>
#include <cstring>

#include "tests/simt/threads.h"

namespace mnemo::simt {
namespace {

constexpr int kRows = 16, kDepth = 16;

float FromBf16(uint32_t bits) {
  const uint32_t word = bits << 16;
  float x;
  std::memcpy(&x, &word, 4);
  return x;
}

// Element (row, col) of a swizzled tile whose first row begins at `address`.
float TileElement(const std::byte* shared, uint32_t address, int row, int col) {
  uint32_t at = address + static_cast<uint32_t>(row) * 128 + static_cast<uint32_t>(col) * 2;
  at ^= ((at >> 7) & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, shared + at, 2);
  return FromBf16(bits);
}

struct FromLane {
  float* d;
  uint32_t a[4];
};

}  // namespace

void PendingProduct::Run() {
  float a[kRows][kDepth];
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      if (product.a_registers != nullptr) {
        const uint32_t pair = a_registers[4 * (row % 8) + k % 8 / 2][row / 8 + 2 * (k / 8)];
        a[row][k] = FromBf16(k % 2 == 0 ? pair & 0xffff : pair >> 16);
      } else {
        const int m = kRows * warp + row;
        a[row][k] = product.a_rows_are_k ? TileElement(shared, product.a, k, m)
                                         : TileElement(shared, product.a, m, k);
      }
    }
  }
  float b[kDepth][64];
  for (int k = 0; k < kDepth; ++k) {
    for (int n = 0; n < product.n; ++n) {
      b[k][n] = product.b_rows_are_k ? TileElement(shared, product.b, k, n)
                                     : TileElement(shared, product.b, n, k);
    }
  }
  if (!before.empty()) {
    for (int lane = 0; lane < kLanes; ++lane)
      std::memcpy(d[lane], &before[lane * product.n / 2], sizeof(float) * product.n / 2);
  }
  for (int row = 0; row < kRows; ++row) {
    float sum[64] = {};
    for (int k = 0; k < kDepth; ++k) {
      for (int n = 0; n < product.n; ++n) sum[n] += a[row][k] * b[k][n];
    }
    for (int n = 0; n < product.n; ++n) {
      float& to = d[4 * (row % 8) + n % 8 / 2][4 * (n / 8) + 2 * (row / 8) + n % 2];
      to = product.sign * sum[n] + (product.accumulate ? to : 0);
    }
  }
}

void StartProduct(const Product& product) {
  FromLane mine{product.d, {}};
  if (product.a_registers != nullptr) std::memcpy(mine.a, product.a_registers, sizeof(mine.a));
  const Lanes lanes = Exchange("a matrix product", mine);
  if (current->lane != 0) return;
  Warp& w = *current->warp;
  PendingProduct pending{product, {}, {}, w.index % 4, current->block->shared, w.groups, {}};
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto given = lanes.at<FromLane>(lane);
    pending.d[lane] = given.d;
    std::memcpy(pending.a_registers[lane].data(), given.a, sizeof(given.a));
  }
  if (!settings.late) {
    pending.Run();
    return;
  }
  bool first = true;  // of those that add to these sums
  for (const PendingProduct& other : w.products) first = first && other.d[0] != pending.d[0];
  if (first) {
    for (float* sums : pending.d) {
      pending.before.insert(pending.before.end(), sums, sums + product.n / 2);
      std::fill(sums, sums + product.n / 2, NAN);
    }
  }
  w.products.push_back(std::move(pending));
}

void CommitProducts() {
  if (current->lane == 0) ++current->warp->groups;
}

void WaitForProducts(int pending) {
  Exchange("a wait for matrix products", 0);
  Warp& w = *current->warp;
  if (current->lane == 0) {
    for (; !w.products.empty() && w.products.front().group < w.groups - pending;
         w.products.pop_front())
      w.products.front().Run();
  }
  Exchange("the end of a wait for matrix products", 0);
}

}  // namespace mnemo::simt
