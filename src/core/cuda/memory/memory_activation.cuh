// The activations with their derivatives.
#pragma once

#include <type_traits>

#include "src/core/cuda/memory/hopper.cuh"

namespace mnemo::memory {

// act(z) = w + w tanh(u) with w = z / 2: SiLU with u = w, GELU (tanh form) with
// u = sqrt(2 / pi) (z + 0.044715 z^3). tanh.approx has a relative error of 2^-11, a quarter of a
// bf16 rounding.
struct Silu {
  __device__ static float value(float z) {
    const float w = 0.5f * z;
    return fmaf(w, approximate_tanh(w), w);
  }
  // Replaces z by act(z) and returns the derivative, 1/2 + (t + w (1 - t^2)) / 2.
  __device__ static float value_and_slope(float& z) {
    const float w = 0.5f * z, t = approximate_tanh(w);
    z = fmaf(w, t, w);
    return fmaf(0.5f, fmaf(w, fmaf(-t, t, 1.0f), t), 0.5f);
  }
  // The same with the second derivative.
  __device__ static float slope_and_curve(float& z, float& curve) {
    const float w = 0.5f * z, t = approximate_tanh(w), u = fmaf(-t, t, 1.0f);
    z = fmaf(w, t, w);
    curve = 0.5f * u * fmaf(-w, t, 1.0f);
    return fmaf(0.5f, fmaf(w, u, t), 0.5f);
  }
};

struct Gelu {
  static constexpr float kLinear = 0.7978845608f, kCubic = 0.044715f * kLinear;

  __device__ static float value(float z) {
    const float w = 0.5f * z;
    return fmaf(w, approximate_tanh(z * fmaf(kCubic * z, z, kLinear)), w);
  }
  // (1 + t) / 2 + w (1 - t^2) u'
  __device__ static float value_and_slope(float& z) {
    const float w = 0.5f * z, bend = kCubic * z * z;
    const float t = approximate_tanh(z * fmaf(kCubic * z, z, kLinear));
    const float step = fmaf(-t, t, 1.0f) * fmaf(3.0f, bend, kLinear);
    z = fmaf(w, t, w);
    return fmaf(w, step, fmaf(0.5f, t, 0.5f));
  }
  // (1 - t^2) (u' + w (u'' - 2 t u'^2))
  __device__ static float slope_and_curve(float& z, float& curve) {
    const float w = 0.5f * z, bend = kCubic * z * z;
    const float t = approximate_tanh(z * fmaf(kCubic * z, z, kLinear));
    const float du = fmaf(3.0f, bend, kLinear), u = fmaf(-t, t, 1.0f);
    curve = u * fmaf(w, -2.0f * t * du * du, fmaf(6.0f, bend, kLinear));
    z = fmaf(w, t, w);
    return fmaf(w, u * du, fmaf(0.5f, t, 0.5f));
  }
};

template <bool kGelu>
using Activation = std::conditional_t<kGelu, Gelu, Silu>;

// Calls `loop` with the activation: one uniform branch around a loop over elements.
template <typename Loop>
__device__ inline void with_activation(bool gelu, const Loop& loop) {
  if (gelu) {
    loop(Gelu{});
  } else {
    loop(Silu{});
  }
}

}  // namespace mnemo::memory
