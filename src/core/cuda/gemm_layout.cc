#include "src/core/cuda/gemm_layout.h"

#include <algorithm>
#include <utility>

namespace mnemo::cuda {
namespace {

int64_t RoundUp(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// A distance of rows that is never taken is chosen so that it stands in no kernel's way.
constexpr int64_t kFreeLd = 8;

// The leading dims of x as one of size `count`, if its strides allow it.
bool MergeLeading(const View& x, int64_t* count, int64_t* stride) {
  *count = 1;
  *stride = 0;
  for (int axis = x.rank - 3; axis >= 0; --axis) {
    if (x.shape[axis] == 1) continue;
    if (*count > 1 && x.strides[axis] != *stride * *count) return false;
    if (*count == 1) *stride = x.strides[axis];
    *count *= x.shape[axis];
  }
  return true;
}

// x [.., r, c] as [count r, c], if that is a view.
bool RowsOfBatch(const View& x, View* rows) {
  int64_t count, stride;
  if (!MergeLeading(x, &count, &stride)) return false;
  const int64_t r = x.shape[x.rank - 2], row_stride = x.strides[x.rank - 2];
  if (count > 1 && r > 1 && stride != r * row_stride) return false;
  *rows = x;
  rows->rank = 2;
  rows->shape[0] = count * r;
  rows->strides[0] = r > 1 ? row_stride : count > 1 ? stride : row_stride;
  rows->shape[1] = x.shape[x.rank - 1];
  rows->strides[1] = x.strides[x.rank - 1];
  return true;
}

}  // namespace

std::optional<MatrixLayout> LayoutOf(const View& x) {
  const int64_t rows = x.shape[x.rank - 2], columns = x.shape[x.rank - 1];
  const int64_t row_stride = x.strides[x.rank - 2], column_stride = x.strides[x.rank - 1];
  if (rows == 1 && (columns == 1 || column_stride == 1)) {
    return MatrixLayout{false, RoundUp(columns, kFreeLd)};
  }
  if (columns == 1 && row_stride == 1) return MatrixLayout{true, RoundUp(rows, kFreeLd)};
  if ((columns == 1 || column_stride == 1) && rows > 1 && row_stride >= columns) {
    return MatrixLayout{false, row_stride};
  }
  if ((rows == 1 || row_stride == 1) && columns > 1 && column_stride >= rows) {
    return MatrixLayout{true, column_stride};
  }
  return std::nullopt;
}

View Transposed(const View& x) {
  View result = x;
  std::swap(result.shape[x.rank - 1], result.shape[x.rank - 2]);
  std::swap(result.strides[x.rank - 1], result.strides[x.rank - 2]);
  return result;
}

View Dense(const View& x, void* data, int64_t padding) {
  View result = x;
  result.data = data;
  int64_t stride = 1;
  for (int axis = x.rank; axis-- > 0;) {
    result.strides[axis] = stride;
    stride *= axis == x.rank - 1 ? RoundUp(x.shape[axis], padding) : x.shape[axis];
  }
  return result;
}

int64_t DenseBytes(const View& x, int64_t padding) {
  int64_t count = RoundUp(x.shape[x.rank - 1], padding);
  for (int axis = 0; axis + 1 < x.rank; ++axis) count *= x.shape[axis];
  return count * SizeOf(x.dtype);
}

bool FoldBatchIntoRows(View* a, View* b, View* out) {
  if (a->rank == 2) return false;
  for (int axis = 0; axis + 2 < b->rank; ++axis) {
    if (b->shape[axis] != 1 && b->strides[axis] != 0) return false;
  }
  View a_rows, out_rows;
  if (!RowsOfBatch(*a, &a_rows) || !RowsOfBatch(*out, &out_rows)) return false;
  if (!LayoutOf(a_rows) || !LayoutOf(out_rows)) return false;
  View one = *b;
  one.rank = 2;
  for (int i = 0; i < 2; ++i) {
    one.shape[i] = b->shape[b->rank - 2 + i];
    one.strides[i] = b->strides[b->rank - 2 + i];
  }
  *a = a_rows;
  *out = out_rows;
  *b = one;
  return true;
}

BatchDims BatchDimsOf(const View& a, const View& b, const View& out) {
  BatchDims dims;  // innermost first, until the end
  for (int axis = a.rank - 3; axis >= 0; --axis) {
    const int64_t size = out.shape[axis];
    if (size == 1) continue;
    const int last = dims.rank - 1;
    if (last >= 0 && a.strides[axis] == dims.a[last] * dims.sizes[last] &&
        b.strides[axis] == dims.b[last] * dims.sizes[last] &&
        out.strides[axis] == dims.out[last] * dims.sizes[last]) {
      dims.sizes[last] *= size;
      continue;
    }
    dims.sizes[dims.rank] = size;
    dims.a[dims.rank] = a.strides[axis];
    dims.b[dims.rank] = b.strides[axis];
    dims.out[dims.rank] = out.strides[axis];
    ++dims.rank;
  }
  if (dims.rank == 0) {
    dims.rank = 1;
    dims.sizes[0] = 1;
  }
  const auto largest =
      static_cast<int>(std::max_element(dims.sizes, dims.sizes + dims.rank) - dims.sizes);
  const int end = dims.rank - 1;
  std::swap(dims.sizes[largest], dims.sizes[end]);
  std::swap(dims.a[largest], dims.a[end]);
  std::swap(dims.b[largest], dims.b[end]);
  std::swap(dims.out[largest], dims.out[end]);
  return dims;
}

namespace {

// Leading dims that repeat (stride 0) once.
View WithoutRepeats(const View& x) {
  View once = x;
  for (int axis = 0; axis + 2 < x.rank; ++axis) {
    if (x.strides[axis] == 0) once.shape[axis] = 1;
  }
  return once;
}

// x as a copy with dense rows has it; leading dims that repeat still do.
View CopyOf(const View& x) {
  const View once = WithoutRepeats(x);
  View result = Dense(once, nullptr, kProductPadding);
  for (int axis = 0; axis + 2 < x.rank; ++axis) {
    if (once.shape[axis] != x.shape[axis]) result.strides[axis] = 0;
    result.shape[axis] = x.shape[axis];
  }
  return result;
}

}  // namespace

std::vector<int64_t> ProductScratch(const View& a, const View& b, const View& out) {
  const auto out_layout = LayoutOf(out);
  if (out_layout && out_layout->transposed) {
    return ProductScratch(Transposed(b), Transposed(a), Transposed(out));
  }
  std::vector<int64_t> bytes;
  View left = a, right = b, result = out;
  if (!out_layout) {
    bytes.push_back(DenseBytes(out));
    result = Dense(out, nullptr);
  }
  for (View* x : {&left, &right}) {
    if (LayoutOf(*x)) continue;
    bytes.push_back(DenseBytes(WithoutRepeats(*x), kProductPadding));
    *x = CopyOf(*x);
  }
  FoldBatchIntoRows(&left, &right, &result);
  if (BatchDimsOf(left, right, result).outer() > kMostProductLoops) {
    for (const View* x : {&result, &left, &right}) bytes.push_back(DenseBytes(*x));
  }
  return bytes;
}

}  // namespace mnemo::cuda
