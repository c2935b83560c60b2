// Several strided views of one shape walked at once: the host drops dims of size 1, puts the dims
// in order and merges those that follow each other in every operand; kernels turn an index into
// offsets. Plain C++, so that it can be tested without a GPU.
#pragma once

#include <cstdint>

#include "src/core/cuda/view.h"

#ifdef __CUDACC__
#define MNEMO_HOST_DEVICE __host__ __device__
#else
#define MNEMO_HOST_DEVICE
#endif

namespace mnemo::cuda {

// Division of n < 2^31 by a divisor in [1, 2^31) through one multiplication (Granlund and
// Montgomery, "Division by invariant integers using multiplication").
struct Divisor {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t d) : divisor(d) {
    while ((uint64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d) / d + 1);
  }
  MNEMO_HOST_DEVICE uint32_t Quotient(uint32_t n) const {
    const auto high = static_cast<uint32_t>(uint64_t{n} * multiplier >> 32);
    return (high + n) >> shift;  // no overflow: high <= n < 2^31
  }
};

inline constexpr int64_t kNarrowCount = (int64_t{1} << 31) - 1;

// The common dims of N operands, innermost first.
template <int N>
struct Dims {
  int rank = 0;
  int64_t sizes[kMaxRank] = {};
  int64_t strides[N][kMaxRank] = {};

  int64_t count() const {
    int64_t count = 1;
    for (int d = 0; d < rank; ++d) count *= sizes[d];
    return count;
  }
  // The innermost stride of an operand; 0 where there is but one element.
  int64_t inner(int k) const { return rank == 0 ? 0 : strides[k][0]; }

  void Add(int64_t size, const int64_t (&operand_strides)[N]) {
    if (size == 1) return;
    sizes[rank] = size;
    for (int k = 0; k < N; ++k) strides[k][rank] = operand_strides[k];
    ++rank;
  }

  // Sorts the dims by the strides of operand `key`, smallest innermost (stable), and merges.
  void Arrange(int key) {
    for (int i = 1; i < rank; ++i) {
      for (int j = i; j > 0 && strides[key][j] < strides[key][j - 1]; --j) Swap(j, j - 1);
    }
    int merged = 0;
    for (int i = 0; i < rank; ++i) {
      bool merge = merged > 0;
      for (int k = 0; k < N && merge; ++k) {
        merge = strides[k][i] == strides[k][merged - 1] * sizes[merged - 1];
      }
      if (merge) {
        sizes[merged - 1] *= sizes[i];
        continue;
      }
      sizes[merged] = sizes[i];
      for (int k = 0; k < N; ++k) strides[k][merged] = strides[k][i];
      ++merged;
    }
    rank = merged;
  }

  // Takes dim d out.
  void Remove(int d) {
    for (int i = d; i + 1 < rank; ++i) Swap(i, i + 1);
    --rank;
  }

  // Packs of `width` elements along the innermost dim count as one from here on; what is left over
  // of that dim is not covered.
  void Pack(int width) {
    if (rank == 0) return;
    sizes[0] /= width;
    for (int k = 0; k < N; ++k) strides[k][0] *= width;
  }

 private:
  void Swap(int i, int j) {
    int64_t size = sizes[i];
    sizes[i] = sizes[j];
    sizes[j] = size;
    for (int k = 0; k < N; ++k) {
      int64_t stride = strides[k][i];
      strides[k][i] = strides[k][j];
      strides[k][j] = stride;
    }
  }
};

// The dims of views of one shape, ordered by those of the first, without the dim `skip`.
template <int N>
Dims<N> DimsOf(const View* const (&views)[N], int skip = -1) {
  Dims<N> dims;
  for (int axis = views[0]->rank; axis-- > 0;) {
    if (axis == skip) continue;
    int64_t strides[N];
    for (int k = 0; k < N; ++k) strides[k] = views[k]->strides[axis];
    dims.Add(views[0]->shape[axis], strides);
  }
  dims.Arrange(0);
  return dims;
}

// Bytes of one access to `width` elements of `size` bytes.
constexpr int AccessBytes(int width, int size) { return width * size < 16 ? width * size : 16; }

// Whether an operand can be read in packs of `width` along the innermost dim: it is dense there
// and every pack is aligned.
template <int N>
bool Packs(const Dims<N>& dims, int k, const void* data, int size, int width) {
  const int access = AccessBytes(width, size);
  if (dims.inner(k) != 1 || reinterpret_cast<uintptr_t>(data) % access != 0) return false;
  for (int d = 1; d < dims.rank; ++d) {
    if (dims.strides[k][d] * size % access != 0) return false;
  }
  return true;
}

// Calls f(dims, offsets) for parts of at most `limit` elements that together are all of `dims`.
template <int N, typename F>
void ForEachPart(const Dims<N>& dims, int64_t limit, const int64_t (&offsets)[N], const F& f) {
  if (dims.count() <= limit) return f(dims, offsets);
  int largest = 0;
  for (int d = 1; d < dims.rank; ++d) {
    if (dims.sizes[d] > dims.sizes[largest]) largest = d;
  }
  Dims<N> low = dims, high = dims;
  low.sizes[largest] = dims.sizes[largest] / 2;
  high.sizes[largest] -= low.sizes[largest];
  int64_t above[N];
  for (int k = 0; k < N; ++k) {
    above[k] = offsets[k] + low.sizes[largest] * dims.strides[k][largest];
  }
  ForEachPart(low, limit, offsets, f);
  ForEachPart(high, limit, above, f);
}

// Dims as kernels use them.
template <int N>
struct Walk {
  int rank = 1;
  bool narrow = true;  // every index fits 31 bits
  int64_t count = 1;
  Divisor divisors[kMaxRank];  // only if narrow
  int64_t sizes[kMaxRank] = {1};
  int64_t strides[N][kMaxRank] = {};

  explicit Walk(const Dims<N>& dims) : count(dims.count()) {
    narrow = count <= kNarrowCount;
    if (dims.rank == 0) return;
    rank = dims.rank;
    for (int d = 0; d < rank; ++d) {
      sizes[d] = dims.sizes[d];
      if (narrow) divisors[d] = Divisor(static_cast<uint32_t>(sizes[d] > 0 ? sizes[d] : 1));
      for (int k = 0; k < N; ++k) strides[k][d] = dims.strides[k][d];
    }
  }

  // Requires narrow.
  MNEMO_HOST_DEVICE void NarrowOffsets(uint32_t index, int64_t (&offsets)[N]) const {
    for (int k = 0; k < N; ++k) offsets[k] = 0;
    const int last = rank - 1;
    for (int d = 0; d < last; ++d) {
      const uint32_t rest = divisors[d].Quotient(index);
      const auto at = static_cast<int64_t>(index - rest * divisors[d].divisor);
      for (int k = 0; k < N; ++k) offsets[k] += at * strides[k][d];
      index = rest;
    }
    for (int k = 0; k < N; ++k) offsets[k] += static_cast<int64_t>(index) * strides[k][last];
  }

  MNEMO_HOST_DEVICE void Offsets(int64_t index, int64_t (&offsets)[N]) const {
    if (narrow) return NarrowOffsets(static_cast<uint32_t>(index), offsets);
    for (int k = 0; k < N; ++k) offsets[k] = 0;
    const int last = rank - 1;
    for (int d = 0; d < last; ++d) {
      const int64_t rest = index / sizes[d], at = index - rest * sizes[d];
      for (int k = 0; k < N; ++k) offsets[k] += at * strides[k][d];
      index = rest;
    }
    for (int k = 0; k < N; ++k) offsets[k] += index * strides[k][last];
  }
};

}  // namespace mnemo::cuda
