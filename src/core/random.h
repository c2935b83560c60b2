// Counter-based random numbers: every value is a pure function of (seed, step, what, index), so
// that the same numbers come out whatever the number of ranks, threads or restarts, and in any
// order. Philox4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace mnemo {

// One stream of numbers. Cheap to make and copy; thread-safe, as it has no state.
class RandomStream {
 public:
  // `what` names the purpose ("init/layers.0.wq", "shuffle"): streams of different names are
  // independent. `step` is the training step, or 0 where there is none.
  RandomStream(uint64_t seed, uint64_t step, std::string_view what);

  uint64_t Bits(uint64_t index) const;   // 64 uniform bits
  double Uniform(uint64_t index) const;  // in [0, 1), 53 bits
  double Normal(uint64_t index) const;   // mean 0, deviation 1 (Box-Muller on one block)
  uint64_t Below(uint64_t index,
                 uint64_t bound) const;  // in [0, bound), bound > 0, unbiased to 2^-64

 private:
  std::array<uint32_t, 4> Block(uint64_t index) const;
  std::array<uint32_t, 2> key_;
  uint64_t high_;  // upper half of the 128-bit counter: mixes step and name
};

// A permutation of [0, size) computed at single points, without a table: a four-round Feistel
// network on the next power of four, walked until it falls inside. For shuffles without
// replacement over data sets of any size.
class RandomPermutation {
 public:
  RandomPermutation(const RandomStream& stream, uint64_t size);
  uint64_t operator()(uint64_t index) const;  // index < size

 private:
  uint64_t Encrypt(uint64_t value) const;
  std::array<uint64_t, 4> keys_;
  uint64_t size_;
  int half_bits_;
};

}  // namespace mnemo
