// Matrix products: our own tiles on one thread each, shared out over the batch and, for large
// products, over panels of rows or columns. The cut depends on the shape alone, so results do not
// depend on threads. Products with a side of a few elements go to BLAS, whose vector kernels suit
// them better.
#include <cblas.h>

#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/gemm_tile.h"
#include "src/core/cpu/strided_loop.h"

namespace mnemo {
namespace {

// A product this long (multiply-adds) is worth its own piece of parallel work.
constexpr int64_t kPieceWork = 1 << 19;
// Panels of one product: long enough that packing the other factor again costs little.
constexpr int64_t kPanel = 256;
// Below this many columns (or rows, with a transposed right factor) a tile would be mostly padding.
constexpr int64_t kThin = 4;

void Blas(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha, const float* a,
          int lda, const float* b, int ldb, float beta, float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void Blas(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, double alpha,
          const double* a, int lda, const double* b, int ldb, double beta, double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

// How BLAS sees the last two dims of a view: row-major, or the transpose of that.
struct Layout {
  bool transposed = false;
  int64_t ld = 1;
};

bool FindLayout(const Tensor& x, Layout* layout) {
  int64_t rows = x.dim(-2), columns = x.dim(-1);
  int64_t row_stride = x.strides()[x.rank() - 2], column_stride = x.strides()[x.rank() - 1];
  if (columns == 1) column_stride = 1;  // a stride that is never taken
  if (rows == 1) row_stride = column_stride == 1 ? std::max<int64_t>(columns, 1) : 1;
  if (column_stride == 1 && row_stride >= std::max<int64_t>(columns, 1)) {
    *layout = {false, row_stride};
    return true;
  }
  if (row_stride == 1 && column_stride >= std::max<int64_t>(rows, 1)) {
    *layout = {true, column_stride};
    return true;
  }
  return false;
}

template <typename T>
MatrixView<T> View(const T* data, const Layout& layout) {
  if (layout.transposed) return {data, 1, layout.ld};
  return {data, layout.ld, 1};
}

// Offsets of the matrices of a batch.
int64_t BatchOffset(const Tensor& x, int64_t index) {
  int64_t offset = 0;
  for (int axis = x.rank() - 3; axis >= 0; --axis) {
    offset += index % x.shape()[axis] * x.strides()[axis];
    index /= x.shape()[axis];
  }
  return offset;
}

// With one right factor for the whole batch, the batch is more rows of one product.
bool FoldBatchIntoRows(Tensor* a, Tensor* b, Tensor* out) {
  int rank = a->rank();
  if (rank == 2) return false;
  for (int axis = 0; axis < rank - 2; ++axis) {
    if (b->shape()[axis] != 1 && b->strides()[axis] != 0) return false;
  }
  int64_t rows = a->elements() / std::max<int64_t>(1, a->dim(-1));
  Shape a_shape{rows, a->dim(-1)}, out_shape{rows, out->dim(-1)};
  if (a->elements() == 0 || !a->CanView(a_shape) || !out->CanView(out_shape)) return false;
  *a = a->View(a_shape);
  *out = out->View(out_shape);
  while (b->rank() > 2) {
    *b = b->Slice(0, 0, 1);
    Shape shape(b->shape().begin() + 1, b->shape().end());
    *b = b->View(shape);
  }
  return true;
}

template <typename T>
void Products(const Tensor& a, const Layout& la, const Tensor& b, const Layout& lb, T alpha, T beta,
              const Tensor& out, const Layout& lo) {
  int64_t m = out.dim(-2), n = out.dim(-1), k = a.dim(-1);
  int64_t batch = out.elements() / (m * n);
  bool cut_rows = m >= n;
  int64_t cut = cut_rows ? m : n;
  int64_t panel = m * n * k <= 4 * kPieceWork ? cut : kPanel;
  int64_t panels = (cut + panel - 1) / panel;
  int64_t work = std::max<int64_t>(1, std::min(cut, panel) * (cut_rows ? n : m) * k);
  int64_t grain = std::max<int64_t>(1, kPieceWork / work);
  bool thin = n < kThin || (m < kThin && lb.transposed);
  CBLAS_TRANSPOSE ta = la.transposed ? CblasTrans : CblasNoTrans;
  CBLAS_TRANSPOSE tb = lb.transposed ? CblasTrans : CblasNoTrans;
  ParallelFor(batch * panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t first = i % panels * panel, size = std::min(panel, cut - first);
      const T* pa = a.data<T>() + BatchOffset(a, i / panels);
      const T* pb = b.data<T>() + BatchOffset(b, i / panels);
      T* po = out.data<T>() + BatchOffset(out, i / panels);
      int64_t rows = m, columns = n;
      if (cut_rows) {
        pa += la.transposed ? first : first * la.ld;
        po += first * lo.ld;
        rows = size;
      } else {
        pb += lb.transposed ? first * lb.ld : first;
        po += first;
        columns = size;
      }
      if (thin) {
        Blas(ta, tb, rows, columns, k, alpha, pa, la.ld, pb, lb.ld, beta, po, lo.ld);
      } else {
        MultiplyTiles<T>(rows, columns, k, alpha, View(pa, la), View(pb, lb), beta, po, lo.ld);
      }
    }
  });
}

}  // namespace

void CpuDevice::Gemm(const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& c,
                     const Tensor& out) {
  MNEMO_CHECK(a.rank() >= 2 && a.rank() == b.rank() && a.rank() == out.rank());
  MNEMO_CHECK(a.dtype() == out.dtype() && b.dtype() == out.dtype());
  MNEMO_CHECK(a.dim(-1) == b.dim(-2) && a.dim(-2) == out.dim(-2) && b.dim(-1) == out.dim(-1));
  if (out.elements() == 0) return;
  if (beta != 0 && !c.same_view(out)) Copy(c, out);
  if (a.dim(-1) == 0) {
    if (beta == 0) return Fill(out, 0);
    return Affine(out, beta, 0, out);
  }
  Tensor left = a, right = b, result = out;
  FoldBatchIntoRows(&left, &right, &result);
  Layout la, lb, lo;
  if (!FindLayout(left, &la)) {
    left = left.Clone();
    FindLayout(left, &la);
  }
  if (!FindLayout(right, &lb)) {
    right = right.Clone();
    FindLayout(right, &lb);
  }
  if (!FindLayout(result, &lo)) {
    Tensor packed = Tensor::Empty(result.shape(), result.dtype());
    if (beta != 0) Copy(result, packed);
    Gemm(left, right, alpha, beta, packed);
    return Copy(packed, result);
  }
  if (lo.transposed) {  // out^T = b^T a^T is row-major
    return Gemm(right.Transpose(), left.Transpose(), alpha, beta, result.Transpose());
  }
  DispatchFloat(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Products<T>(left, la, right, lb, static_cast<T>(alpha), static_cast<T>(beta), result, lo);
  });
}

}  // namespace mnemo
