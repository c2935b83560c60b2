#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct Constants {
  T scale, rate, beta1, rest1, beta2, rest2, unbias1, unbias2, epsilon, decay;

  explicit Constants(const AdamWStep& step)
      : scale(static_cast<T>(step.gradient_scale)),
        rate(static_cast<T>(step.rate)),
        beta1(static_cast<T>(step.beta1)),
        rest1(static_cast<T>(1 - step.beta1)),
        beta2(static_cast<T>(step.beta2)),
        rest2(static_cast<T>(1 - step.beta2)),
        unbias1(static_cast<T>(1 / step.correction1)),
        unbias2(static_cast<T>(1 / step.correction2)),
        epsilon(static_cast<T>(step.epsilon)),
        decay(static_cast<T>(step.decay)) {}
};

template <int V, typename T>
__device__ __forceinline__ void UpdatePack(const Constants<T>& c, const T* gradient, T* parameter,
                                           T* first, T* second) {
  const Pack<T, V> gradients = LoadPack<V>(gradient);
  Pack<T, V> p = LoadPack<V>(parameter), m = LoadPack<V>(first), v = LoadPack<V>(second);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const T g = gradients.at[i] * c.scale;
    m.at[i] = fma(c.beta1, m.at[i], c.rest1 * g);
    v.at[i] = fma(c.beta2, v.at[i], c.rest2 * g * g);
    const T update = m.at[i] * c.unbias1 / (sqrt(v.at[i] * c.unbias2) + c.epsilon);
    p.at[i] = fma(-c.rate, fma(c.decay, p.at[i], update), p.at[i]);
  }
  StorePack<V>(first, m);
  StorePack<V>(second, v);
  StorePack<V>(parameter, p);
}

template <int V, typename T>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(Constants<T> constants, int64_t count, const T* gradient, T* parameter, T* first,
                 T* second) {
  const int64_t thread = blockIdx.x * int64_t{kThreads} + threadIdx.x, packs = count / V;
  for (int64_t i = thread; i < packs; i += gridDim.x * int64_t{kThreads}) {
    UpdatePack<V>(constants, gradient + i * V, parameter + i * V, first + i * V, second + i * V);
  }
  const int64_t rest = packs * V + thread;  // fewer than V are left
  if (V > 1 && rest < count) {
    UpdatePack<1>(constants, gradient + rest, parameter + rest, first + rest, second + rest);
  }
}

}  // namespace

void AdamW(const Launch& launch, const AdamWStep& step, const View& gradient, const View& parameter,
           const View& first_moment, const View& second_moment) {
  const int64_t count = parameter.elements();
  if (count == 0) return;
  bool aligned = true;
  for (const View* view : {&gradient, &parameter, &first_moment, &second_moment}) {
    aligned = aligned && reinterpret_cast<uintptr_t>(view->data) % 16 == 0;
  }
  auto run = [&](auto zero) {
    using T = decltype(zero);
    constexpr int kPack = kWidth<T>;
    const unsigned blocks = Blocks(launch, count, int64_t{kThreads} * (aligned ? kPack : 1));
    auto kernel = aligned ? adamw_kernel<kPack, T> : adamw_kernel<1, T>;
    kernel<<<blocks, kThreads, 0, launch.stream>>>(Constants<T>(step), count,
                                                   Data<const T>(gradient), Data<T>(parameter),
                                                   Data<T>(first_moment), Data<T>(second_moment));
    MNEMO_CUDA(cudaGetLastError());
  };
  if (parameter.dtype == DType::kF32) return run(float{});
  if (parameter.dtype == DType::kF64) return run(double{});
  MNEMO_CUDA(cudaErrorInvalidValue);
}

}  // namespace mnemo::cuda
