// One matrix product on one thread, for the sizes that batches of heads and chunks are made of,
// where the set-up of a general BLAS call is felt.
#pragma once

#include <cstdint>

namespace mnemo {

// A matrix at any strides, in elements.
template <typename T>
struct MatrixView {
  const T* data;
  int64_t row_stride, column_stride;
};

// c = alpha a b + beta c with a [m, k], b [k, n] and c [m, n] of unit column stride; beta == 0 does
// not read c. Every element is the same chain of fused multiply-adds over k wherever it lies and
// whatever m and n are: a row of a product does not depend on the rows beside it.
template <typename T>
void MultiplyTiles(int64_t m, int64_t n, int64_t k, T alpha, const MatrixView<T>& a,
                   const MatrixView<T>& b, T beta, T* c, int64_t c_stride);

extern template void MultiplyTiles<float>(int64_t, int64_t, int64_t, float,
                                          const MatrixView<float>&, const MatrixView<float>&, float,
                                          float*, int64_t);
extern template void MultiplyTiles<double>(int64_t, int64_t, int64_t, double,
                                           const MatrixView<double>&, const MatrixView<double>&,
                                           double, double*, int64_t);

}  // namespace mnemo
