// Walks over several views of one shape at once: dims are reordered and merged so that the inner
// loop is as long and as close to unit stride as the views allow, and the rest is shared out over
// threads in pieces that depend on the shape alone.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "src/core/tensor.h"
#include "src/core/thread_pool.h"

namespace mnemo {

// Elements per piece of parallel work: below this a loop is cheaper than sharing it out.
inline constexpr int64_t kPieceElements = 32768;
// Inner loops are not cut shorter than this, so that they stay vectorised.
inline constexpr int64_t kShortestPiece = 64;

// Calls f(T{}) with T = float or double.
template <typename F>
void DispatchFloat(DType dtype, F&& f) {
  if (dtype == DType::kF32) {
    f(float{});
  } else {
    MNEMO_CHECK(dtype == DType::kF64, "the CPU computes in f32 and f64, not in {}", Name(dtype));
    f(double{});
  }
}

// N views of one shape; view 0 is the output. Dim 0 is the innermost.
template <int N>
struct StridedLoop {
  static constexpr int kMaxRank = 12;
  int rank = 0;
  std::array<int64_t, kMaxRank> sizes{};
  std::array<std::array<int64_t, kMaxRank>, N> strides{};

  explicit StridedLoop(const std::array<const Tensor*, N>& views) {
    const Shape& shape = views[0]->shape();
    for (const Tensor* view : views) {
      MNEMO_CHECK(view->shape() == shape, "{} against {}", ToString(view->shape()),
                  ToString(shape));
    }
    MNEMO_CHECK(shape.size() <= kMaxRank, "rank {}", shape.size());
    std::array<int, kMaxRank> order{};
    for (int axis = static_cast<int>(shape.size()); axis-- > 0;) {
      if (shape[axis] != 1) order[rank++] = axis;
    }
    // By the output's strides, ascending; stable. A handful of dims: insertion is quickest.
    const Shape& key = views[0]->strides();
    for (int i = 1; i < rank; ++i) {
      for (int j = i; j > 0 && key[order[j]] < key[order[j - 1]]; --j) {
        std::swap(order[j], order[j - 1]);
      }
    }
    int merged = 0;
    for (int i = 0; i < rank; ++i) {
      int64_t size = shape[order[i]];
      bool merge = merged > 0;
      for (int k = 0; k < N && merge; ++k) {
        merge = views[k]->strides()[order[i]] == strides[k][merged - 1] * sizes[merged - 1];
      }
      if (merge) {
        sizes[merged - 1] *= size;
        continue;
      }
      sizes[merged] = size;
      for (int k = 0; k < N; ++k) strides[k][merged] = views[k]->strides()[order[i]];
      ++merged;
    }
    rank = merged;
    if (rank == 0) {  // a single element
      rank = 1;
      sizes[0] = 1;
      for (int k = 0; k < N; ++k) strides[k][0] = 1;
    }
  }

  int64_t inner_stride(int k) const { return strides[k][0]; }

  int64_t rows() const {
    int64_t rows = 1;
    for (int d = 1; d < rank; ++d) rows *= sizes[d];
    return rows;
  }

  // Calls row(offsets, n): n elements from these offsets on, at the inner strides. `cost` is how
  // many elements' worth of work one element stands for.
  template <typename Row>
  void Run(Row&& row, int64_t cost = 1) const {
    int64_t inner = sizes[0];
    int64_t row_count = rows();
    if (inner == 0 || row_count == 0) return;
    int64_t limit = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, cost));
    int64_t piece = std::min(inner, std::max<int64_t>(limit, kShortestPiece));
    int64_t pieces = (inner + piece - 1) / piece;
    ParallelFor(row_count * pieces, std::max<int64_t>(1, limit / piece),
                [&](int64_t begin, int64_t end) {
                  if (pieces == 1) {
                    RunRows(begin, end, row);
                    return;
                  }
                  for (int64_t i = begin; i < end; ++i) {
                    std::array<int64_t, N> offsets = OffsetsOfRow(i / pieces);
                    int64_t first = i % pieces * piece;
                    for (int k = 0; k < N; ++k) offsets[k] += first * strides[k][0];
                    row(offsets, std::min(piece, inner - first));
                  }
                });
  }

 private:
  std::array<int64_t, N> OffsetsOfRow(int64_t row) const {
    std::array<int64_t, N> offsets{};
    for (int d = 1; d < rank; ++d) {
      int64_t index = row % sizes[d];
      row /= sizes[d];
      for (int k = 0; k < N; ++k) offsets[k] += index * strides[k][d];
    }
    return offsets;
  }

  template <typename Row>
  void RunRows(int64_t begin, int64_t end, Row&& row) const {
    std::array<int64_t, N> offsets = OffsetsOfRow(begin);
    std::array<int64_t, kMaxRank> index{};
    for (int64_t rest = begin, d = 1; d < rank; ++d) {
      index[d] = rest % sizes[d];
      rest /= sizes[d];
    }
    for (int64_t i = begin; i < end; ++i) {
      row(offsets, sizes[0]);
      for (int d = 1; d < rank; ++d) {
        for (int k = 0; k < N; ++k) offsets[k] += strides[k][d];
        if (++index[d] < sizes[d]) break;
        for (int k = 0; k < N; ++k) offsets[k] -= strides[k][d] * sizes[d];
        index[d] = 0;
      }
    }
  }
};

}  // namespace mnemo
