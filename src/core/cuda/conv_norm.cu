#include "src/core/cuda/layer_rows.cuh"

// With c_t = sum_j w_j x_{t-3+j}, s = SiLU(c), r = 1 / sqrt(sum(s^2) + epsilon), y = s r:
//   grad_s = r (grad_y - y sum(grad_y y)),   grad_c = grad_s SiLU'(c),
//   grad_x_u = sum_j w_j grad_c_{u+3-j},     grad_w_j = sum_t grad_c_t x_{t-3+j}.
//
// A thread holds 8 features of a run of tokens and goes through it in order, the last rows in
// registers; the norm is a sum over neighbouring lanes. Backward, a thread also computes grad_c of
// the three tokens after its run, which its last rows had a part in.
namespace mnemo::cuda {
namespace {

constexpr int kThreads = kConvThreads;
constexpr int kRun = kConvRun;  // tokens
constexpr int kBefore = kConvTaps - 1;

struct Sizes {
  int64_t batch, tokens, width;
  int lanes;  // of a part; 0: no norm
  float epsilon;

  __device__ int64_t runs() const { return (tokens + kRun - 1) / kRun; }
};

struct Taps {
  Lane w[kConvTaps];
};

__device__ __forceinline__ Taps LoadTaps(const float* weight, int64_t feature) {
  Taps taps;
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const Pack<float, kConvTaps> of = LoadPack<kConvTaps>(weight + (feature + i) * kConvTaps);
#pragma unroll
    for (int j = 0; j < kConvTaps; ++j) taps.w[j].at[i] = of.at[j];
  }
  return taps;
}

// Row u of sequence b: of `before` where u < 0, zeros from the end on.
template <typename T>
__device__ __forceinline__ Lane Row(const Sizes& s, const T* before, const T* x, int64_t b,
                                    int64_t u, int64_t feature) {
  if (u >= s.tokens) return {};
  const T* row =
      u < 0 ? before + (b * kBefore + u + kBefore) * s.width : x + (b * s.tokens + u) * s.width;
  return LoadLane(row + feature);
}

__device__ __forceinline__ Lane Convolve(const Taps& taps, const Lane (&rows)[kConvTaps]) {
  Lane c = {};
#pragma unroll
  for (int j = 0; j < kConvTaps; ++j) {
#pragma unroll
    for (int i = 0; i < kLane; ++i) c.at[i] = fmaf(taps.w[j].at[i], rows[j].at[i], c.at[i]);
  }
  return c;
}

// 1 / sqrt(sum(s^2) + epsilon) over the part, 1 without norm.
__device__ __forceinline__ float InverseNorm(const Lane& silu, const Sizes& s) {
  return s.lanes == 0 ? 1.0f : rsqrtf(GroupSum(Dot(silu, silu), s.lanes) + s.epsilon);
}

// Which run and features a thread has: threads of a run lie side by side.
struct Place {
  bool here;
  int64_t b, t0, feature;
};
__device__ __forceinline__ Place PlaceOf(const Sizes& s, int64_t run, int64_t column) {
  const int64_t runs = s.runs();
  Place place;
  place.here = run < s.batch * runs;
  place.b = place.here ? run / runs : 0;
  place.t0 = place.here ? run % runs * kRun : s.tokens;
  place.feature = column * kLane;
  return place;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    Forward(Sizes s, const T* before, const T* x, const float* weight, T* y) {
  const int64_t columns = s.width / kLane;
  const int64_t thread = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const Place at = PlaceOf(s, thread / columns, thread % columns);
  const Taps taps = LoadTaps(weight, at.feature);
  Lane rows[kConvTaps] = {};
  if (at.here) {
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      rows[j + 1] = Row(s, before, x, at.b, at.t0 - kBefore + j, at.feature);
    }
  }
  for (int64_t t = at.t0, end = at.t0 + kRun; t < end; ++t) {
#pragma unroll
    for (int j = 0; j < kBefore; ++j) rows[j] = rows[j + 1];
    rows[kBefore] = Row(s, before, x, at.b, t, at.feature);
    Lane out = Convolve(taps, rows);
#pragma unroll
    for (int i = 0; i < kLane; ++i) out.at[i] *= Sigmoid(out.at[i]);
    const float r = InverseNorm(out, s);
#pragma unroll
    for (int i = 0; i < kLane; ++i) out.at[i] *= r;
    if (t < s.tokens) StoreLane(y + (at.b * s.tokens + t) * s.width + at.feature, out);
  }
}

// grad_c of one token; zeros where grad_y is.
__device__ __forceinline__ Lane GradientOfSum(const Lane& c, const Lane& grad_y, const Sizes& s) {
  Lane y, sigmoid, gradient;
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    sigmoid.at[i] = Sigmoid(c.at[i]);
    y.at[i] = c.at[i] * sigmoid.at[i];
  }
  const float r = InverseNorm(y, s);
  float dot = 0;
  if (s.lanes > 0) {
#pragma unroll
    for (int i = 0; i < kLane; ++i) y.at[i] *= r;
    dot = GroupSum(Dot(grad_y, y), s.lanes);
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const float ds = s.lanes > 0 ? r * (grad_y.at[i] - y.at[i] * dot) : grad_y.at[i];
    gradient.at[i] = ds * sigmoid.at[i] * (1 + c.at[i] * (1 - sigmoid.at[i]));
  }
  return gradient;
}

// `shares` rows of [width, taps] of the weight's gradient, each from every shares-th run.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    Backward(Sizes s, int64_t shares, const T* before, const T* x, const float* weight,
             const T* grad_y, T* grad_before, T* grad_x, float* grad_weight) {
  const int64_t columns = s.width / kLane;
  const int64_t thread = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const int64_t share = thread / columns, column = thread % columns;
  const Taps taps = LoadTaps(weight, column * kLane);
  Lane dw[kConvTaps] = {};
  // As many rounds for every thread: neighbours in a warp may have different shares.
  const int64_t rounds = (s.batch * s.runs() + shares - 1) / shares;
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t run = share < shares ? round * shares + share : s.batch * s.runs();
    const Place at = PlaceOf(s, run, column);
    Lane rows[kConvTaps] = {}, pending[kConvTaps] = {};  // pending[j]: grad_x of row t - 3 + j
    if (at.here) {
#pragma unroll
      for (int j = 0; j < kBefore; ++j) {
        rows[j + 1] = Row(s, before, x, at.b, at.t0 - kBefore + j, at.feature);
      }
    }
    for (int64_t t = at.t0, end = at.t0 + kRun; t < end + kBefore; ++t) {
#pragma unroll
      for (int j = 0; j < kBefore; ++j) {
        rows[j] = rows[j + 1];
        pending[j] = pending[j + 1];
      }
      rows[kBefore] = Row(s, before, x, at.b, t, at.feature);
      pending[kBefore] = {};
      Lane dy = {};
      if (t < s.tokens) dy = LoadLane(grad_y + (at.b * s.tokens + t) * s.width + at.feature);
      const Lane dc = GradientOfSum(Convolve(taps, rows), dy, s);
      const float own = t < end ? 1.0f : 0.0f;
#pragma unroll
      for (int j = 0; j < kConvTaps; ++j) {
#pragma unroll
        for (int i = 0; i < kLane; ++i) {
          pending[j].at[i] = fmaf(taps.w[j].at[i], dc.at[i], pending[j].at[i]);
          dw[j].at[i] = fmaf(own * dc.at[i], rows[j].at[i], dw[j].at[i]);
        }
      }
      const int64_t u = t - kBefore;  // nothing more is added to it
      if (u >= at.t0 && u < s.tokens) {
        StoreLane(grad_x + (at.b * s.tokens + u) * s.width + at.feature, pending[0]);
      } else if (u < 0 && at.here) {
        StoreLane(grad_before + (at.b * kBefore + u + kBefore) * s.width + at.feature, pending[0]);
      }
    }
  }
  if (share >= shares) return;
  float* to = grad_weight + (share * s.width + column * kLane) * kConvTaps;
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    Pack<float, kConvTaps> of;
#pragma unroll
    for (int j = 0; j < kConvTaps; ++j) of.at[j] = dw[j].at[i];
    StorePack<kConvTaps>(to + i * kConvTaps, of);
  }
}

Sizes SizesOf(const ConvShape& shape) {
  const int lanes = shape.heads == 0 ? 0 : static_cast<int>(shape.width / shape.heads / kLane);
  return {shape.batch, shape.tokens, shape.width, lanes, shape.epsilon};
}

}  // namespace

void ConvSiluNorm(const Launch& launch, const ConvShape& shape, const void* before, const void* x,
                  const float* weight, void* y) {
  const int64_t runs = shape.batch * CeilDivide(shape.tokens, kRun);
  if (runs == 0) return;
  const int64_t threads = runs * (shape.width / kLane);
  DispatchRows(shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    Forward<T>
        <<<static_cast<unsigned>(CeilDivide(threads, kThreads)), kThreads, 0, launch.stream>>>(
            SizesOf(shape), static_cast<const T*>(before), static_cast<const T*>(x), weight,
            static_cast<T*>(y));
  });
  MNEMO_CUDA(cudaGetLastError());
}

void ConvSiluNormBackward(const Launch& launch, const ConvShape& shape, const void* before,
                          const void* x, const float* weight, const void* grad_y, void* grad_before,
                          void* grad_x, float* grad_weight) {
  const int64_t runs = shape.batch * CeilDivide(shape.tokens, kRun);
  const int64_t columns = shape.width / kLane;
  if (runs == 0) return SumPartials(launch, nullptr, 0, shape.width * kConvTaps, grad_weight);
  const int64_t shares = ConvShares(shape, launch.multiprocessors);
  float* partials = static_cast<float*>(
      launch.scratch.Take(shares * shape.width * kConvTaps * static_cast<int64_t>(sizeof(float))));
  DispatchRows(shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    Backward<T><<<static_cast<unsigned>(CeilDivide(shares * columns, kThreads)), kThreads, 0,
                  launch.stream>>>(SizesOf(shape), shares, static_cast<const T*>(before),
                                   static_cast<const T*>(x), weight, static_cast<const T*>(grad_y),
                                   static_cast<T*>(grad_before), static_cast<T*>(grad_x), partials);
  });
  MNEMO_CUDA(cudaGetLastError());
  SumPartials(launch, partials, shares, shape.width * kConvTaps, grad_weight);
}

}  // namespace mnemo::cuda
