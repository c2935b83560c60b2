// See cuda_runtime.h.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace cub {

struct DeviceRadixSort {
  // By bits [begin, end) of the keys, in their order where these are equal.
  template <typename Key, typename Value>
  static cudaError_t SortPairs(void* space, size_t& bytes, const Key* keys, Key* sorted_keys,
                               const Value* values, Value* sorted_values, int count, int begin,
                               int end, cudaStream_t) {
    if (space == nullptr) return bytes = 1, cudaSuccess;
    const auto part = [&](int i) {
      return static_cast<uint64_t>(keys[i]) << (64 - end) >> (64 - end) >> begin;
    };
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return part(a) < part(b); });
    for (int i = 0; i < count; ++i)
      sorted_keys[i] = keys[order[i]], sorted_values[i] = values[order[i]];
    return cudaSuccess;
  }
};

}  // namespace cub
