#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"

namespace mnemo {
namespace {

struct BFloat16 {
  uint16_t bits;
};

// Conversions. To bf16 rounds to nearest, ties to even; to i32 rounds towards zero, saturates, and
// makes NaN zero.
inline BFloat16 RoundToBFloat16(uint32_t bits) {
  bool nan = (bits & 0x7fffffff) > 0x7f800000;
  uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return {static_cast<uint16_t>(nan ? bits >> 16 | 0x40 : rounded)};
}

inline BFloat16 RoundToBFloat16(double x) {
  // To f32 by rounding to odd, so that the second rounding sees whether anything was cut off.
  float f = static_cast<float>(x);
  uint32_t bits = std::bit_cast<uint32_t>(f);
  if (x == x && static_cast<double>(f) != x) {
    if (std::fabs(static_cast<double>(f)) > std::fabs(x)) --bits;
    bits |= 1;
  }
  return RoundToBFloat16(bits);
}

template <typename To, typename From>
inline To Convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<From, BFloat16>) {
    return Convert<To>(std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16));
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    if constexpr (std::is_same_v<From, float>) {
      return RoundToBFloat16(std::bit_cast<uint32_t>(x));
    } else {
      return RoundToBFloat16(static_cast<double>(x));
    }
  } else if constexpr (std::is_same_v<To, int32_t>) {
    double d = x;
    if (d != d) return 0;
    if (d >= 2147483647.0) return std::numeric_limits<int32_t>::max();
    if (d <= -2147483648.0) return std::numeric_limits<int32_t>::min();
    return static_cast<int32_t>(d);
  } else {
    return static_cast<To>(x);
  }
}

// Transposes through tiles that stay in the first-level cache: out walks dim 0 at unit stride, x
// walks dim `t` at unit stride.
constexpr int64_t kTile = 32;

template <typename T>
void CopyTransposed(const StridedLoop<2>& loop, int t, const T* x, T* out) {
  int64_t n0 = loop.sizes[0], n1 = loop.sizes[t];
  int64_t x_stride = loop.strides[1][0], out_stride = loop.strides[0][t];
  int64_t outer = loop.rows() / n1;
  int64_t tiles1 = (n1 + kTile - 1) / kTile;
  int64_t grain = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, n0 * kTile));
  ParallelFor(outer * tiles1, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const T* from = x;
      T* to = out;
      int64_t rest = task / tiles1, first1 = task % tiles1 * kTile;
      for (int d = 1; d < loop.rank; ++d) {
        if (d == t) continue;
        from += rest % loop.sizes[d] * loop.strides[1][d];
        to += rest % loop.sizes[d] * loop.strides[0][d];
        rest /= loop.sizes[d];
      }
      int64_t last1 = std::min(n1, first1 + kTile);
      for (int64_t first0 = 0; first0 < n0; first0 += kTile) {
        int64_t last0 = std::min(n0, first0 + kTile);
        for (int64_t j = first1; j < last1; ++j) {
          for (int64_t i = first0; i < last0; ++i) to[j * out_stride + i] = from[i * x_stride + j];
        }
      }
    }
  });
}

template <typename From, typename To>
void CopyOf(const Tensor& x, const Tensor& out) {
  StridedLoop<2> loop({&out, &x});
  int64_t out_stride = loop.inner_stride(0), x_stride = loop.inner_stride(1);
  if constexpr (std::is_same_v<From, To>) {
    for (int d = 1; d < loop.rank && out_stride == 1 && x_stride > 1; ++d) {
      if (loop.strides[1][d] == 1) {
        return CopyTransposed(loop, d, static_cast<const From*>(x.raw()),
                              static_cast<To*>(out.raw()));
      }
    }
  }
  loop.Run([&](const std::array<int64_t, 2>& offsets, int64_t n) {
    To* o = static_cast<To*>(out.raw()) + offsets[0];
    const From* a = static_cast<const From*>(x.raw()) + offsets[1];
    if (out_stride == 1 && x_stride == 1) {
      if constexpr (std::is_same_v<From, To>) {
        std::memmove(o, a, n * sizeof(To));
      } else {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) o[i] = Convert<To>(a[i]);
      }
    } else if (x_stride == 0) {
      To value = Convert<To>(*a);
      for (int64_t i = 0; i < n; ++i) o[i * out_stride] = value;
    } else {
      for (int64_t i = 0; i < n; ++i) o[i * out_stride] = Convert<To>(a[i * x_stride]);
    }
  });
}

template <typename F>
void Dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kF64:
      return f(double{});
    case DType::kBF16:
      return f(BFloat16{});
    case DType::kI32:
      return f(int32_t{});
  }
  MNEMO_CHECK(false, "dtype {}", static_cast<int>(dtype));
}

}  // namespace

void CpuDevice::Copy(const Tensor& x, const Tensor& out) {
  if (out.elements() == 0) return;
  Dispatch(x.dtype(), [&](auto from) {
    Dispatch(out.dtype(), [&](auto to) { CopyOf<decltype(from), decltype(to)>(x, out); });
  });
}

void CpuDevice::Fill(const Tensor& out, double value) {
  Dispatch(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T converted = Convert<T>(value);
    StridedLoop<1> loop({&out});
    int64_t stride = loop.inner_stride(0);
    loop.Run([&](const std::array<int64_t, 1>& offsets, int64_t n) {
      T* o = static_cast<T*>(out.raw()) + offsets[0];
      if (stride == 1) {
        for (int64_t i = 0; i < n; ++i) o[i] = converted;
      } else {
        for (int64_t i = 0; i < n; ++i) o[i * stride] = converted;
      }
    });
  });
}

}  // namespace mnemo
