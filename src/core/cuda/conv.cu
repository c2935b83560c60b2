#include <algorithm>

#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRun = 16;  // steps that a thread of the convolution walks

// Elements of T to a pack: few enough that a window of rows stays in registers.
template <typename T>
inline constexpr int kConvWidth = sizeof(T) == 8 ? 2 : 4;

struct ConvShape {
  int64_t batch, steps, packs;  // packs of V channels
  int taps;
  int64_t x_batch, x_step, x_pack;  // strides
  int64_t y_batch, y_step, y_pack;  // of out, or of the gradient
  int64_t weight_channel, weight_tap;
};

template <typename T, int V>
struct Channels {
  Compute<T> at[V];
};

template <int V, typename T>
__device__ __forceinline__ Channels<T, V> LoadChannels(const T* from) {
  const Pack<T, V> pack = LoadPack<V>(from);
  Channels<T, V> values;
#pragma unroll
  for (int v = 0; v < V; ++v) values.at[v] = Value(pack.at[v]);
  return values;
}

// K taps through a window of K rows in registers; K == 0: any number of taps, rows read again.
template <int V, int K, typename T>
__global__ void __launch_bounds__(kThreads)
    conv_kernel(ConvShape shape, const T* __restrict__ x, const T* __restrict__ weight,
                T* __restrict__ out) {
  const int64_t runs = CeilDivide(shape.steps, kRun), items = shape.batch * runs * shape.packs;
  for (int64_t item = blockIdx.x * int64_t{kThreads} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{kThreads}) {
    const int64_t row = item / shape.packs, pack = item - row * shape.packs;
    const int64_t b = row / runs, first = (row - b * runs) * kRun;
    const int n = static_cast<int>(min(int64_t{kRun}, shape.steps - first));
    const T* from = x + b * shape.x_batch + first * shape.x_step + pack * shape.x_pack;
    T* to = out + b * shape.y_batch + first * shape.y_step + pack * shape.y_pack;
    const T* w = weight + pack * V * shape.weight_channel;
    if constexpr (K > 0) {
      Channels<T, V> weights[K], window[K];
#pragma unroll
      for (int j = 0; j < K; ++j) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          weights[j].at[v] = Value(w[v * shape.weight_channel + j * shape.weight_tap]);
        }
        if (j + 1 < K) window[j] = LoadChannels<V>(from + j * shape.x_step);
      }
#pragma unroll 4
      for (int t = 0; t < n; ++t) {
        window[K - 1] = LoadChannels<V>(from + (t + K - 1) * shape.x_step);
        Pack<T, V> result;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          Compute<T> sum = weights[0].at[v] * window[0].at[v];
#pragma unroll
          for (int j = 1; j < K; ++j) sum = fma(weights[j].at[v], window[j].at[v], sum);
          result.at[v] = Convert<T>(sum);
        }
        StorePack<V>(to + t * shape.y_step, result);
#pragma unroll
        for (int j = 0; j + 1 < K; ++j) window[j] = window[j + 1];
      }
    } else {
      for (int t = 0; t < n; ++t) {
        const T* at = from + t * shape.x_step;
        Compute<T> sum = Value(w[0]) * Value(at[0]);
        for (int j = 1; j < shape.taps; ++j) {
          sum = fma(Value(w[j * shape.weight_tap]), Value(at[j * shape.x_step]), sum);
        }
        to[t * shape.y_step] = Convert<T>(sum);
      }
    }
  }
}

constexpr int kTaps = 4;         // summed at once
constexpr int kThreadRows = 64;  // rows whose products a thread sums before f64 takes over
constexpr int kHeight = kThreads / 32;
constexpr int kChunkRows = kThreadRows * kHeight;

// parts [chunks, taps, channels]: sums over chunks of kChunkRows rows, sequences end to end.
template <int V, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    conv_weight_grad_kernel(ConvShape shape, int64_t chunks, const T* __restrict__ x,
                            const T* __restrict__ grad, double* __restrict__ parts) {
  __shared__ double shared[V][kHeight][32];
  const int lane = threadIdx.x % 32, y = threadIdx.x / 32;
  const int64_t tiles = CeilDivide(shape.packs, 32), tap_groups = CeilDivide(shape.taps, kTaps);
  const int64_t rows = shape.batch * shape.steps, extended = shape.steps + shape.taps - 1;
  for (int64_t item = blockIdx.x; item < chunks * tap_groups * tiles; item += gridDim.x) {
    const int64_t place = item / tiles, chunk = place / tap_groups;
    const int64_t pack = (item - place * tiles) * 32 + lane;
    const auto tap = static_cast<int>(place - chunk * tap_groups) * kTaps;
    Channels<T, V> sums[kTaps] = {};
    if (pack < shape.packs) {
      const int64_t begin = chunk * kChunkRows + y * kThreadRows;
      const int64_t end = min(begin + kThreadRows, rows);
      int64_t b = begin / shape.steps, t = begin - b * shape.steps;
      Channels<T, V> window[kTaps] = {};
      for (int64_t r = begin; r < end; ++r) {
        const T* from = x + b * shape.x_batch + (t + tap) * shape.x_step + pack * shape.x_pack;
        // Beyond the last row stand zeros, for taps that do not exist.
        const int64_t left = extended - t - tap;
        if (r == begin || t == 0) {
#pragma unroll
          for (int j = 0; j + 1 < kTaps; ++j) {
            window[j] = j < left ? LoadChannels<V>(from + j * shape.x_step) : Channels<T, V>{};
          }
        }
        window[kTaps - 1] = kTaps - 1 < left ? LoadChannels<V>(from + (kTaps - 1) * shape.x_step)
                                             : Channels<T, V>{};
        const Channels<T, V> g =
            LoadChannels<V>(grad + b * shape.y_batch + t * shape.y_step + pack * shape.y_pack);
#pragma unroll
        for (int j = 0; j < kTaps; ++j) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            sums[j].at[v] = fma(g.at[v], window[j].at[v], sums[j].at[v]);
          }
        }
#pragma unroll
        for (int j = 0; j + 1 < kTaps; ++j) window[j] = window[j + 1];
        if (++t == shape.steps) {
          t = 0;
          ++b;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
#pragma unroll
      for (int v = 0; v < V; ++v) shared[v][y][lane] = sums[j].at[v];
      __syncthreads();
      if (y < V && tap + j < shape.taps && pack < shape.packs) {
        double sum = 0;
        for (int i = 0; i < kHeight; ++i) sum += shared[y][i][lane];
        parts[(chunk * shape.taps + tap + j) * shape.packs * V + pack * V + y] = sum;
      }
      __syncthreads();  // before the next tap overwrites `shared`
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    conv_weight_merge_kernel(int64_t channels, int taps, int64_t chunks, int64_t channel_stride,
                             int64_t tap_stride, const double* parts, T* out) {
  const int64_t results = channels * taps;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < results;
       i += gridDim.x * int64_t{kThreads}) {
    double sum = 0;
#pragma unroll 8
    for (int64_t c = 0; c < chunks; ++c) sum += parts[c * results + i];
    const int64_t tap = i / channels, channel = i - tap * channels;
    out[channel * channel_stride + tap * tap_stride] = Convert<T>(sum);
  }
}

// y: out or the gradient.
ConvShape ShapeOf(const View& x, const View& y, const View& weight) {
  ConvShape shape;
  shape.batch = y.shape[0];
  shape.steps = y.shape[1];
  shape.packs = y.shape[2];
  shape.taps = static_cast<int>(weight.shape[1]);
  shape.x_batch = x.strides[0];
  shape.x_step = x.strides[1];
  shape.x_pack = x.strides[2];
  shape.y_batch = y.strides[0];
  shape.y_step = y.strides[1];
  shape.y_pack = y.strides[2];
  shape.weight_channel = weight.strides[0];
  shape.weight_tap = weight.strides[1];
  return shape;
}

// Whether channels can be moved in packs of `width`.
bool PacksOfChannels(const ConvShape& shape, const void* x, const void* y, int size, int width) {
  const auto bytes = static_cast<uintptr_t>(AccessBytes(width, size));
  bool packs = shape.packs % width == 0 && shape.x_pack == 1 && shape.y_pack == 1 &&
               reinterpret_cast<uintptr_t>(x) % bytes == 0 &&
               reinterpret_cast<uintptr_t>(y) % bytes == 0;
  for (int64_t stride : {shape.x_batch, shape.x_step, shape.y_batch, shape.y_step}) {
    packs = packs && stride % width == 0;
  }
  return packs;
}

ConvShape InPacks(ConvShape shape, int width) {
  shape.packs /= width;
  shape.x_pack *= width;
  shape.y_pack *= width;
  return shape;
}

}  // namespace

void DepthwiseConv(const Launch& launch, const View& x, const View& weight, const View& out) {
  if (out.elements() == 0) return;
  const ConvShape shape = ShapeOf(x, out, weight);
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kPack = kConvWidth<T>;
    const bool packs =
        shape.taps == 4 && PacksOfChannels(shape, x.data, out.data, sizeof(T), kPack);
    const int64_t items =
        shape.batch * CeilDivide(shape.steps, kRun) * (shape.packs / (packs ? kPack : 1));
    auto kernel = packs ? conv_kernel<kPack, 4, T> : conv_kernel<1, 0, T>;
    kernel<<<Blocks(launch, items, kThreads), kThreads, 0, launch.stream>>>(
        packs ? InPacks(shape, kPack) : shape, Data<const T>(x), Data<const T>(weight),
        Data<T>(out));
    MNEMO_CUDA(cudaGetLastError());
  });
}

void DepthwiseConvWeightGrad(const Launch& launch, const View& x, const View& grad,
                             const View& out) {
  if (out.elements() == 0) return;
  if (grad.elements() == 0) return Fill(launch, out, 0);
  const ConvShape shape = ShapeOf(x, grad, out);
  const int64_t channels = shape.packs, chunks = CeilDivide(shape.batch * shape.steps, kChunkRows);
  auto* parts = static_cast<double*>(
      launch.scratch.Take(chunks * out.elements() * static_cast<int64_t>(sizeof(double))));
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kPack = kConvWidth<T>;
    const bool packs = PacksOfChannels(shape, x.data, grad.data, sizeof(T), kPack);
    const ConvShape packed = InPacks(shape, packs ? kPack : 1);
    const int64_t blocks = chunks * CeilDivide(shape.taps, kTaps) * CeilDivide(packed.packs, 32);
    auto kernel = packs ? conv_weight_grad_kernel<kPack, T> : conv_weight_grad_kernel<1, T>;
    kernel<<<Blocks(launch, blocks, 1), kThreads, 0, launch.stream>>>(
        packed, chunks, Data<const T>(x), Data<const T>(grad), parts);
    MNEMO_CUDA(cudaGetLastError());
    conv_weight_merge_kernel<<<Blocks(launch, out.elements(), kThreads), kThreads, 0,
                               launch.stream>>>(channels, shape.taps, chunks, out.strides[0],
                                                out.strides[1], parts, Data<T>(out));
    MNEMO_CUDA(cudaGetLastError());
  });
}

}  // namespace mnemo::cuda
