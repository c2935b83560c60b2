// The classic scheme: strips of b, packed to lie in the first-level cache, against tiles of six
// rows of a, with the tile of c in registers. This file alone is compiled with contraction, as the
// vector types have no fused multiply-add of their own.
#include "src/core/cpu/gemm_tile.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

namespace mnemo {
namespace {

constexpr int kVectorBytes = 32;
constexpr int kRows = 6;           // of a tile: with two vectors a row, 12 sums in registers
constexpr int64_t kDepth = 256;    // k of one pass: a strip of b is 16 KiB
constexpr int64_t kColumns = 256;  // of b packed at a time: 256 KiB in f32, in the second level
constexpr int64_t kPackRows = 96;  // of a packed at a time, where it has no unit stride
constexpr int64_t kUnpackedRows = 2 * kRows;  // with no more rows, packing b does not pay

template <typename T>
struct Vectors {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / sizeof(T);
  static constexpr int kStrip = 2 * kLanes;  // columns of a tile
};

template <typename T>
inline typename Vectors<T>::Type Load(const T* from) {
  typename Vectors<T>::Type v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <typename V, typename T>
inline void Store(V v, T* to) {
  std::memcpy(to, &v, sizeof(v));
}

// Rows r and r + S of a square of vectors swap their off-diagonal blocks of size S.
template <int S, typename V, int... kLane>
inline void SwapBlocks(V& a, V& b, std::integer_sequence<int, kLane...>) {
  constexpr int kLanes = sizeof...(kLane);
  const V x = a, y = b;
  a = __builtin_shufflevector(x, y, ((kLane & S) != 0 ? kLanes + kLane - S : kLane)...);
  b = __builtin_shufflevector(x, y, ((kLane & S) != 0 ? kLanes + kLane : kLane + S)...);
}

template <typename T, int S>
inline void TransposeStage(typename Vectors<T>::Type* v) {
  constexpr int kLanes = Vectors<T>::kLanes;
#pragma GCC unroll 8
  for (int r = 0; r < kLanes; ++r) {
    if ((r & S) != 0) continue;
    SwapBlocks<S>(v[r], v[r + S], std::make_integer_sequence<int, kLanes>());
  }
}

template <typename T>
inline void Transpose(typename Vectors<T>::Type* v) {
  if constexpr (Vectors<T>::kLanes == 8) TransposeStage<T, 4>(v);
  TransposeStage<T, 2>(v);
  TransposeStage<T, 1>(v);
}

// Packs b [k, columns] as [k, kStrip], zero beyond `columns`.
template <typename T>
void PackStrip(const MatrixView<T>& b, int64_t k, int64_t columns, T* to) {
  constexpr int kLanes = Vectors<T>::kLanes, kStrip = Vectors<T>::kStrip;
  if (columns == kStrip && b.column_stride == 1) {
    for (int64_t p = 0; p < k; ++p) {
      Store(Load(b.data + p * b.row_stride), to + p * kStrip);
      Store(Load(b.data + p * b.row_stride + kLanes), to + p * kStrip + kLanes);
    }
    return;
  }
  int64_t done = 0;
  if (columns == kStrip && b.row_stride == 1) {
    for (; done + kLanes <= k; done += kLanes) {
      for (int half = 0; half < kStrip; half += kLanes) {
        typename Vectors<T>::Type v[kLanes];
#pragma GCC unroll 8
        for (int i = 0; i < kLanes; ++i) {
          v[i] = Load(b.data + (half + i) * b.column_stride + done);
        }
        Transpose<T>(v);
#pragma GCC unroll 8
        for (int i = 0; i < kLanes; ++i) Store(v[i], to + (done + i) * kStrip + half);
      }
    }
  }
  for (int64_t p = done; p < k; ++p) {
    for (int64_t j = 0; j < columns; ++j) {
      to[p * kStrip + j] = b.data[p * b.row_stride + j * b.column_stride];
    }
    for (int64_t j = columns; j < kStrip; ++j) to[p * kStrip + j] = 0;
  }
}

// c [Rows, kStrip] = alpha a b + beta c.
template <int Rows, typename T>
void Tile(int64_t k, T alpha, MatrixView<T> a, const T* b, int64_t b_stride, T beta, T* c,
          int64_t c_stride) {
  constexpr int kLanes = Vectors<T>::kLanes;
  typename Vectors<T>::Type sums[Rows][2] = {};
  for (int64_t p = 0; p < k; ++p) {
    auto b0 = Load(b), b1 = Load(b + kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
      T value = a.data[i * a.row_stride];
      sums[i][0] += value * b0;
      sums[i][1] += value * b1;
    }
    a.data += a.column_stride;
    b += b_stride;
  }
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    for (int half = 0; half < 2; ++half) {
      T* to = c + i * c_stride + half * kLanes;
      auto result = alpha * sums[i][half];
      if (beta != T(0)) result = beta * Load(to) + result;
      Store(result, to);
    }
  }
}

template <typename T>
void TileOf(int64_t rows, int64_t k, T alpha, const MatrixView<T>& a, const T* b, int64_t b_stride,
            T beta, T* c, int64_t c_stride) {
  switch (rows) {
    case 1:
      return Tile<1>(k, alpha, a, b, b_stride, beta, c, c_stride);
    case 2:
      return Tile<2>(k, alpha, a, b, b_stride, beta, c, c_stride);
    case 3:
      return Tile<3>(k, alpha, a, b, b_stride, beta, c, c_stride);
    case 4:
      return Tile<4>(k, alpha, a, b, b_stride, beta, c, c_stride);
    case 5:
      return Tile<5>(k, alpha, a, b, b_stride, beta, c, c_stride);
    default:
      return Tile<6>(k, alpha, a, b, b_stride, beta, c, c_stride);
  }
}

// A tile that sticks out of c on the right goes through a buffer.
template <typename T>
void EdgeTile(int64_t rows, int64_t columns, int64_t k, T alpha, const MatrixView<T>& a, const T* b,
              T beta, T* c, int64_t c_stride) {
  constexpr int kStrip = Vectors<T>::kStrip;
  T buffer[kRows * kStrip] = {};
  if (beta != T(0)) {
    for (int64_t i = 0; i < rows; ++i) {
      std::copy(c + i * c_stride, c + i * c_stride + columns, buffer + i * kStrip);
    }
  }
  TileOf<T>(rows, k, alpha, a, b, kStrip, beta, buffer, kStrip);
  for (int64_t i = 0; i < rows; ++i) {
    std::copy(buffer + i * kStrip, buffer + i * kStrip + columns, c + i * c_stride);
  }
}

// Room for the packed strips of one thread.
template <typename T>
struct Buffers {
  alignas(64) T b[kDepth * kColumns];
  alignas(64) T a[kDepth * kPackRows];

  static Buffers& Get() {
    thread_local std::unique_ptr<Buffers> buffers;
    if (buffers == nullptr) buffers.reset(new Buffers);  // not cleared: no page is touched early
    return *buffers;
  }
};

// Six rows at a time: [k, kRows], so that a tile reads along a line.
template <typename T>
void PackRows(const MatrixView<T>& a, int64_t rows, int64_t k, T* to) {
  for (int64_t first = 0; first < rows; first += kRows) {
    const T* from = a.data + first * a.row_stride;
    int64_t count = std::min<int64_t>(kRows, rows - first);
    for (int64_t p = 0; p < k; ++p, from += a.column_stride, to += kRows) {
      for (int64_t i = 0; i < count; ++i) to[i] = from[i * a.row_stride];
    }
  }
}

// c [rows, columns] += a b over one depth; b's strips are packed in `strips`, or lie in place.
template <typename T>
void Block(int64_t rows, int64_t columns, int64_t k, T alpha, const MatrixView<T>& a, bool a_packed,
           const MatrixView<T>& b, const T* strips, T beta, T* c, int64_t c_stride) {
  constexpr int kStrip = Vectors<T>::kStrip;
  for (int64_t j = 0; j < columns; j += kStrip) {
    int64_t width = std::min<int64_t>(kStrip, columns - j);
    bool in_place = strips == nullptr && width == kStrip;
    const T* strip = in_place ? b.data + j : strips + j * k;
    if (strips == nullptr && !in_place) {
      T* edge = Buffers<T>::Get().b;
      PackStrip<T>({b.data + j * b.column_stride, b.row_stride, b.column_stride}, k, width, edge);
      strip = edge;
    }
    for (int64_t i = 0; i < rows; i += kRows) {
      int64_t count = std::min<int64_t>(kRows, rows - i);
      MatrixView<T> tile = {a.data + i * (a_packed ? k : a.row_stride), a.row_stride,
                            a.column_stride};
      if (a_packed) tile.row_stride = 1, tile.column_stride = kRows;
      T* to = c + i * c_stride + j;
      if (width < kStrip) {
        EdgeTile<T>(count, width, k, alpha, tile, strip, beta, to, c_stride);
      } else {
        TileOf<T>(count, k, alpha, tile, strip, in_place ? b.row_stride : kStrip, beta, to,
                  c_stride);
      }
    }
  }
}

}  // namespace

template <typename T>
void MultiplyTiles(int64_t m, int64_t n, int64_t k, T alpha, const MatrixView<T>& a,
                   const MatrixView<T>& b, T beta, T* c, int64_t c_stride) {
  constexpr int kStrip = Vectors<T>::kStrip;
  Buffers<T>& buffers = Buffers<T>::Get();
  bool pack_a = a.column_stride != 1;
  bool pack_b = m > kUnpackedRows || b.column_stride != 1;
  for (int64_t p = 0; p < k; p += kDepth) {
    int64_t depth = std::min(kDepth, k - p);
    T keep = p == 0 ? beta : T(1);
    for (int64_t j = 0; j < n; j += kColumns) {
      int64_t columns = std::min(kColumns, n - j);
      MatrixView<T> right = {b.data + p * b.row_stride + j * b.column_stride, b.row_stride,
                             b.column_stride};
      for (int64_t s = 0; s < columns && pack_b; s += kStrip) {
        PackStrip<T>({right.data + s * b.column_stride, b.row_stride, b.column_stride}, depth,
                     std::min<int64_t>(kStrip, columns - s), buffers.b + s * depth);
      }
      int64_t step = pack_a ? kPackRows : m;
      for (int64_t i = 0; i < m; i += step) {
        int64_t rows = std::min(step, m - i);
        MatrixView<T> left = {a.data + i * a.row_stride + p * a.column_stride, a.row_stride,
                              a.column_stride};
        if (pack_a) {
          PackRows(left, rows, depth, buffers.a);
          left.data = buffers.a;
        }
        Block<T>(rows, columns, depth, alpha, left, pack_a, right, pack_b ? buffers.b : nullptr,
                 keep, c + i * c_stride + j, c_stride);
      }
    }
  }
}

template void MultiplyTiles<float>(int64_t, int64_t, int64_t, float, const MatrixView<float>&,
                                   const MatrixView<float>&, float, float*, int64_t);
template void MultiplyTiles<double>(int64_t, int64_t, int64_t, double, const MatrixView<double>&,
                                    const MatrixView<double>&, double, double*, int64_t);

}  // namespace mnemo
