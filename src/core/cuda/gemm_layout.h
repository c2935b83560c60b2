// How a product of strided views is put to a library that knows matrices with a leading dimension
// and one batch stride. Plain C++, so that it can be tested without a GPU.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "src/core/cuda/view.h"

namespace mnemo::cuda {

// A matrix whose rows are dense and `ld` apart, or the transpose of such a one.
struct MatrixLayout {
  bool transposed = false;
  int64_t ld = 1;
  bool operator==(const MatrixLayout&) const = default;
};
// Of the last two dims; none where neither has a unit stride or rows overlap. A stride that is
// never taken (a dim of 1) counts as whatever suits.
std::optional<MatrixLayout> LayoutOf(const View& x);

View Transposed(const View& x);  // the last two dims swapped
// Contiguous strides for x's shape; `padding` rounds the distance of rows up to such a multiple.
View Dense(const View& x, void* data, int64_t padding = 1);
int64_t DenseBytes(const View& x, int64_t padding = 1);  // of that

// With one right factor for the whole batch, the batch is more rows of one product. Changes the
// three views to matrices and returns true where a and out allow it.
bool FoldBatchIntoRows(View* a, View* b, View* out);

// The leading dims of a product, in elements, with those merged that follow each other in all
// operands; the largest one is last.
struct BatchDims {
  int rank = 0;
  int64_t sizes[kMaxRank] = {};
  int64_t a[kMaxRank] = {}, b[kMaxRank] = {}, out[kMaxRank] = {};

  int64_t outer() const {  // how many batches of sizes[rank - 1]
    int64_t count = 1;
    for (int i = 0; i + 1 < rank; ++i) count *= sizes[i];
    return count;
  }
};
BatchDims BatchDimsOf(const View& a, const View& b, const View& out);

// Products of so many batches one after the other cost less than copies that make them one batch.
inline constexpr int64_t kMostProductLoops = 32;
// Rows of copies are this many elements apart, which every kernel of the library takes.
inline constexpr int64_t kProductPadding = 8;
// Bytes of each piece of scratch that a product takes (MatrixProducts::Run), where the library has
// a kernel for it as it lies.
std::vector<int64_t> ProductScratch(const View& a, const View& b, const View& out);

}  // namespace mnemo::cuda
