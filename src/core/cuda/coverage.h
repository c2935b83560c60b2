// Which calls of the small fused ops the kernels cover, told from shapes, dtypes and attributes
// alone. Plain C++, so that a plan can be made without a GPU.
#pragma once

#include <span>

#include "src/core/cuda/layer_shapes.h"
#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {

// What the kernels are told of a call with rows x.
NormShape NormShapeOf(const Tensor& x, const NormAttributes& attributes);
ConvShape ConvShapeOf(const Tensor& x, const ConvAttributes& attributes);

bool AcceptsNorm(std::span<const Tensor> inputs, const NormAttributes& attributes);
bool AcceptsSwiGlu(std::span<const Tensor> inputs, const NoAttributes& attributes);
bool AcceptsConv(std::span<const Tensor> inputs, const ConvAttributes& attributes);
bool AcceptsRotation(std::span<const Tensor> inputs, const NoAttributes& attributes);

}  // namespace mnemo::cuda
