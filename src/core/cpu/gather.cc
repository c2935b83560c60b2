#include <cstring>

#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"

namespace mnemo {
namespace {

constexpr int64_t kColumns = 64;  // columns that one piece of a scatter owns

const int32_t* Ids(const Tensor& ids, int64_t count) {
  MNEMO_CHECK(ids.dtype() == DType::kI32 && ids.contiguous() && ids.elements() == count);
  return ids.data<int32_t>();
}

int64_t RowGrain(int64_t width) {
  return std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, width));
}

template <typename T>
void GatherOf(const Tensor& table, const int32_t* ids, const Tensor& out) {
  int64_t width = out.dim(1), ts = table.strides()[1], os = out.strides()[1];
  ParallelFor(out.dim(0), RowGrain(width), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* from = table.data<T>() + ids[n] * table.strides()[0];
      T* to = out.data<T>() + n * out.strides()[0];
      if (ts == 1 && os == 1) {
        std::memcpy(to, from, width * sizeof(T));
      } else {
        for (int64_t d = 0; d < width; ++d) to[d * os] = from[d * ts];
      }
    }
  });
}

// A piece owns some columns and walks all rows in order, so that sums do not depend on threads.
template <typename T>
void ScatterOf(const Tensor& rows, const int32_t* ids, const Tensor& out) {
  int64_t count = rows.dim(0), width = rows.dim(1);
  int64_t rs = rows.strides()[1], os = out.strides()[1];
  int64_t blocks = (width + kColumns - 1) / kColumns;
  ParallelFor(blocks, std::max<int64_t>(1, RowGrain(count) / kColumns),
              [&](int64_t begin, int64_t end) {
                int64_t first = begin * kColumns;
                int64_t columns = std::min(width, end * kColumns) - first;
                for (int64_t n = 0; n < count; ++n) {
                  const T* from = rows.data<T>() + n * rows.strides()[0] + first * rs;
                  T* to = out.data<T>() + ids[n] * out.strides()[0] + first * os;
                  if (rs == 1 && os == 1) {
#pragma omp simd
                    for (int64_t d = 0; d < columns; ++d) to[d] += from[d];
                  } else {
                    for (int64_t d = 0; d < columns; ++d) to[d * os] += from[d * rs];
                  }
                }
              });
}

}  // namespace

void CpuDevice::GatherRows(const Tensor& table, const Tensor& ids, const Tensor& out) {
  MNEMO_CHECK(table.rank() == 2 && out.rank() == 2 && table.dim(1) == out.dim(1));
  MNEMO_CHECK(table.dtype() == out.dtype());
  const int32_t* index = Ids(ids, out.dim(0));
  DispatchFloat(out.dtype(), [&](auto zero) { GatherOf<decltype(zero)>(table, index, out); });
}

void CpuDevice::ScatterAddRows(const Tensor& rows, const Tensor& ids, const Tensor& out) {
  MNEMO_CHECK(rows.rank() == 2 && out.rank() == 2 && rows.dim(1) == out.dim(1));
  MNEMO_CHECK(rows.dtype() == out.dtype());
  const int32_t* index = Ids(ids, rows.dim(0));
  Fill(out, 0);
  DispatchFloat(out.dtype(), [&](auto zero) { ScatterOf<decltype(zero)>(rows, index, out); });
}

void CpuDevice::PickColumns(const Tensor& x, const Tensor& ids, const Tensor& out) {
  MNEMO_CHECK(x.rank() == 2 && out.rank() == 2 && out.dim(0) == x.dim(0) && out.dim(1) == 1);
  MNEMO_CHECK(x.dtype() == out.dtype());
  const int32_t* index = Ids(ids, x.dim(0));
  DispatchFloat(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for (int64_t n = 0; n < x.dim(0); ++n) {
      bool inside = index[n] >= 0 && index[n] < x.dim(1);
      out.data<T>()[n * out.strides()[0]] =
          inside ? x.data<T>()[n * x.strides()[0] + index[n] * x.strides()[1]] : T(0);
    }
  });
}

void CpuDevice::PlaceColumns(const Tensor& values, const Tensor& ids, const Tensor& out) {
  MNEMO_CHECK(values.rank() == 2 && out.rank() == 2 && out.dim(0) == values.dim(0) &&
              values.dim(1) == 1);
  MNEMO_CHECK(values.dtype() == out.dtype());
  const int32_t* index = Ids(ids, out.dim(0));
  Fill(out, 0);
  DispatchFloat(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for (int64_t n = 0; n < out.dim(0); ++n) {
      if (index[n] < 0 || index[n] >= out.dim(1)) continue;
      out.data<T>()[n * out.strides()[0] + index[n] * out.strides()[1]] =
          values.data<T>()[n * values.strides()[0]];
    }
  });
}

}  // namespace mnemo
