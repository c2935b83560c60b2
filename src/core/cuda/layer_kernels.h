// Kernels of the small fused ops (../fused/layers.h): what layers_op.cc registers.
//
// Tokens are rows of d features, bf16 or f32, contiguous and 16-byte aligned; weights and their
// gradients are f32. Sums are f32 in a fixed order.
#pragma once

#include "src/core/cuda/kernels.h"
#include "src/core/cuda/layer_shapes.h"

namespace mnemo::cuda {

// Of a shape that SupportsNorm.
void RmsNorm(const Launch& launch, const NormShape& shape, const void* x, const float* weight,
             void* y);
// grad_x is what `addend` holds, or nothing if it is null, and the gradient. grad_weight may be
// null.
void RmsNormBackward(const Launch& launch, const NormShape& shape, const void* x,
                     const float* weight, const void* grad_y, const void* addend, void* grad_x,
                     float* grad_weight);

// y = SiLU(a) b over `count` values, a multiple of 8.
void SwiGlu(const Launch& launch, DType dtype, int64_t count, const void* a, const void* b,
            void* y);
void SwiGluBackward(const Launch& launch, DType dtype, int64_t count, const void* a, const void* b,
                    const void* grad_y, void* grad_a, void* grad_b);

// Of a shape that SupportsConv: before [B, 3, d], x [B, T, d], weight [d, 4] -> y [B, T, d].
void ConvSiluNorm(const Launch& launch, const ConvShape& shape, const void* before, const void* x,
                  const float* weight, void* y);
// Gradients of before, x and weight.
void ConvSiluNormBackward(const Launch& launch, const ConvShape& shape, const void* before,
                          const void* x, const float* weight, const void* grad_y, void* grad_before,
                          void* grad_x, float* grad_weight);

// Rotary positions of x [B, H, T, f], f a multiple of 16, strides of B, H and T multiples of 8:
// pairs (i, i + f / 2) turned by the angles whose cosines and sines [B or 1, T, f / 2] are given.
struct RotaryShape {
  DType dtype = DType::kBF16;
  int64_t batch = 0, heads = 0, tokens = 0, head_dim = 0;
  int64_t batch_stride = 0, head_stride = 0, token_stride = 0;  // of x
  int64_t table_batch_stride = 0;                               // 0: one table for all sequences
};
// out lies as [B, T, H, f], dense. `inverse` turns back: also the derivative's way.
void Rotary(const Launch& launch, const RotaryShape& shape, const void* x, const float* cosines,
            const float* sines, bool inverse, void* out);

// out [columns] = sums over `rows` rows of partials [rows, columns], in a fixed order.
void SumPartials(const Launch& launch, const float* partials, int64_t rows, int64_t columns,
                 float* out);

}  // namespace mnemo::cuda
