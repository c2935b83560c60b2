// The block function of the random numbers in random.h; separate so that it can be tested against
// the published vectors.
#pragma once

#include <array>
#include <cstdint>

namespace mnemo {

// Philox4x32 with 10 rounds: a keyed bijection of 128-bit counters.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace mnemo
