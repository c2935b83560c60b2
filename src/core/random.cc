#include "src/core/random.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "src/core/philox.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

// Two words as one, and the 53 high bits of that as a number in [0, 1).
uint64_t Join(uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; }
double ToUnit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

}  // namespace

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

RandomStream::RandomStream(uint64_t seed, uint64_t step, std::string_view what)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      high_(XXH3_64bits_withSeed(what.data(), what.size(), step)) {}

std::array<uint32_t, 4> RandomStream::Block(uint64_t index) const {
  return Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                     static_cast<uint32_t>(high_), static_cast<uint32_t>(high_ >> 32)},
                    key_);
}

uint64_t RandomStream::Bits(uint64_t index) const {
  std::array<uint32_t, 4> block = Block(index);
  return Join(block[0], block[1]);
}

double RandomStream::Uniform(uint64_t index) const { return ToUnit(Bits(index)); }

double RandomStream::Normal(uint64_t index) const {
  std::array<uint32_t, 4> block = Block(index);
  double radius_draw = 1 - ToUnit(Join(block[0], block[1]));  // in (0, 1]: the log is finite
  double angle = 2 * std::numbers::pi * ToUnit(Join(block[2], block[3]));
  return std::sqrt(-2 * std::log(radius_draw)) * std::cos(angle);
}

uint64_t RandomStream::Below(uint64_t index, uint64_t bound) const {
  MNEMO_CHECK(bound > 0);
  std::array<uint32_t, 4> block = Block(index);
  // The high word of (128 random bits) * bound, as a fraction of 2^128.
  unsigned __int128 low = static_cast<unsigned __int128>(Join(block[0], block[1])) * bound;
  unsigned __int128 high = static_cast<unsigned __int128>(Join(block[2], block[3])) * bound;
  return static_cast<uint64_t>((high + (low >> 64)) >> 64);
}

RandomPermutation::RandomPermutation(const RandomStream& stream, uint64_t size) : size_(size) {
  MNEMO_CHECK(size > 0);
  for (size_t i = 0; i < keys_.size(); ++i) keys_[i] = stream.Bits(i);
  half_bits_ = (std::bit_width(size - 1) + 1) / 2;
}

uint64_t RandomPermutation::Encrypt(uint64_t value) const {
  uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (uint64_t key : keys_) {
    // A multiply and a fold spread every bit of the half over the word.
    uint64_t mixed = (right ^ key) * 0x9E3779B97F4A7C15;
    mixed = (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9;
    uint64_t next = left ^ ((mixed ^ (mixed >> 32)) & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

uint64_t RandomPermutation::operator()(uint64_t index) const {
  MNEMO_CHECK(index < size_, "index {} of {}", index, size_);
  uint64_t value = index;
  do {
    value = Encrypt(value);
  } while (value >= size_);
  return value;
}

}  // namespace mnemo
