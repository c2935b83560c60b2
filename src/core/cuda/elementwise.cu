#include "src/core/cuda/loop.cuh"

namespace mnemo::cuda {
namespace {

template <typename T>
struct AffineOf {
  Compute<T> scale, shift;

  template <int V>
  __device__ void operator()(Pack<T, V>& out, const Pack<T, V>& x) const {
#pragma unroll
    for (int i = 0; i < V; ++i) out.at[i] = Convert<T>(fma(scale, Value(x.at[i]), shift));
  }
};

template <typename T>
struct WhereOf {
  template <int V>
  __device__ void operator()(Pack<T, V>& out, const Pack<T, V>& mask, const Pack<T, V>& a,
                             const Pack<T, V>& b) const {
#pragma unroll
    for (int i = 0; i < V; ++i) out.at[i] = Value(mask.at[i]) > 0 ? a.at[i] : b.at[i];
  }
};

// a and out in T, b in T or, for kAdd, bf16.
template <typename T, typename B>
struct BinaryOf {
  BinaryOp op;

  template <int V, typename F>
  static __device__ __forceinline__ void Each(Pack<T, V>& out, const Pack<T, V>& a,
                                              const Pack<B, V>& b, F f) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      out.at[i] = Convert<T>(f(Value(a.at[i]), Convert<Compute<T>>(b.at[i])));
    }
  }

  template <int V>
  __device__ void operator()(Pack<T, V>& out, const Pack<T, V>& a, const Pack<B, V>& b) const {
    using C = Compute<T>;
    if constexpr (std::is_same_v<T, B>) {
      switch (op) {  // the same for all threads
        case BinaryOp::kAdd:
          return Each(out, a, b, [](C x, C y) { return x + y; });
        case BinaryOp::kSub:
          return Each(out, a, b, [](C x, C y) { return x - y; });
        case BinaryOp::kMul:
          return Each(out, a, b, [](C x, C y) { return x * y; });
        case BinaryOp::kDiv:
          return Each(out, a, b, [](C x, C y) { return x / y; });
        case BinaryOp::kMax:  // NaN if either is
          return Each(out, a, b, [](C x, C y) { return x > y || x != x ? x : y; });
        case BinaryOp::kGreater:
          return Each(out, a, b, [](C x, C y) { return x > y ? C(1) : C(0); });
      }
    } else {
      Each(out, a, b, [](C x, C y) { return x + y; });
    }
  }
};

}  // namespace

void Affine(const Launch& launch, const View& x, double scale, double shift, const View& out) {
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = Compute<T>;
    const AffineOf<T> f{static_cast<C>(scale), static_cast<C>(shift)};
    Loop<kWidth<T>, T, T>(launch, f, out, x);
  });
}

void Where(const Launch& launch, const View& mask, const View& a, const View& b, const View& out) {
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    Loop<kWidth<T>, T, T, T, T>(launch, WhereOf<T>{}, out, mask, a, b);
  });
}

void Binary(const Launch& launch, BinaryOp op, const View& a, const View& b, const View& out) {
  if (b.dtype != out.dtype) {
    if (op != BinaryOp::kAdd || out.dtype != DType::kF32 || b.dtype != DType::kBF16) {
      MNEMO_CUDA(cudaErrorInvalidValue);
    }
    return Loop<8, float, float, BFloat16>(launch, BinaryOf<float, BFloat16>{op}, out, a, b);
  }
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    Loop<kWidth<T>, T, T, T>(launch, BinaryOf<T, T>{op}, out, a, b);
  });
}

}  // namespace mnemo::cuda
