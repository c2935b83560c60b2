#include "src/core/counted/counted_kernels.h"
#include "src/core/counting_backend.h"
#include "src/core/cuda/coverage.h"
#include "src/core/cuda/layout.h"
#include "src/core/fused/fused_ops.h"

// Follows cuda/layers_op.cc.
namespace mnemo {
namespace {

using Tensors = std::vector<Tensor>;
using List = std::span<const Tensor>;

constexpr int64_t kFloat = sizeof(float);

Tensor EmptyLike(const Tensor& x) { return Tensor::Empty(x.shape(), x.dtype(), x.device()); }

Tensor Dense(const Tensor& x) {
  const bool aligned = reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0;
  return x.contiguous() && aligned ? x : x.Clone();
}
Tensor DenseFloats(const Tensor& x) { return Dense(x.To(DType::kF32)); }

Tensors NormForward(List inputs, const NormAttributes&, Tensors*) {
  const Tensor x = Dense(inputs[0]), weight = DenseFloats(inputs[1]);
  return {EmptyLike(x)};
}

Tensors NormBackward(List inputs, const NormAttributes& attributes, List, List gradients,
                     const std::vector<bool>& needs, List so_far) {
  const Tensor x = Dense(inputs[0]), weight = DenseFloats(inputs[1]);
  const Tensor grad_y = Dense(gradients[0]), grad_x = EmptyLike(x);
  const Tensor before = so_far[0].defined() ? Dense(so_far[0]) : Tensor();
  if (!needs[1]) return {grad_x, {}};
  const Tensor grad_weight = EmptyLike(weight);
  const cuda::NormShape shape = cuda::NormShapeOf(x, attributes);
  CountedScratch scratch(x.device());
  scratch.Take(cuda::NormShares(shape, kCountedMultiprocessors) * shape.width * kFloat);
  return {grad_x, grad_weight.To(inputs[1].dtype())};
}

Tensors SwiGluForward(List inputs, const NoAttributes&, Tensors*) {
  const Tensor a = Dense(inputs[0]), b = Dense(inputs[1]);
  return {EmptyLike(a)};
}

Tensors SwiGluBackward(List inputs, const NoAttributes&, List, List gradients,
                       const std::vector<bool>&) {
  const Tensor a = Dense(inputs[0]), b = Dense(inputs[1]), grad_y = Dense(gradients[0]);
  return {EmptyLike(a), EmptyLike(b)};
}

Tensors ConvForward(List inputs, const ConvAttributes&, Tensors*) {
  const Tensor before = Dense(inputs[0]), x = Dense(inputs[1]), weight = DenseFloats(inputs[2]);
  return {EmptyLike(x)};
}

Tensors ConvBackward(List inputs, const ConvAttributes& attributes, List, List gradients,
                     const std::vector<bool>&) {
  const Tensor before = Dense(inputs[0]), x = Dense(inputs[1]), weight = DenseFloats(inputs[2]);
  const Tensor grad_y = Dense(gradients[0]);
  const Tensor grad_before = EmptyLike(before), grad_x = EmptyLike(x);
  const Tensor grad_weight = EmptyLike(weight);
  const cuda::ConvShape shape = cuda::ConvShapeOf(x, attributes);
  CountedScratch scratch(x.device());
  scratch.Take(cuda::ConvBackwardGrid(shape, kCountedMultiprocessors).shares * shape.width *
               cuda::kConvTaps * kFloat);
  return {grad_before, grad_x, grad_weight.To(inputs[2].dtype())};
}

Tensor Turn(const Tensor& view, const Tensor& cosines, const Tensor& sines) {
  const Tensor x = cuda::IsPerHead(view) ? view : view.Clone();
  const Tensor cos = Dense(cosines), sin = Dense(sines);
  return cuda::EmptyPerHead(x.dim(0), x.dim(1), x.dim(2), x.dim(3), x.dtype(), x.device());
}

Tensors RotateForward(List inputs, const NoAttributes&, Tensors*) {
  return {Turn(inputs[0], inputs[1], inputs[2])};
}

Tensors RotateBackward(List inputs, const NoAttributes&, List, List gradients,
                       const std::vector<bool>&) {
  return {Turn(gradients[0], inputs[1], inputs[2]), {}, {}};
}

}  // namespace

void RegisterCountedLayers() {
  RmsNormOp().Register(kCountingGpuType, {.accepts = cuda::AcceptsNorm,
                                          .forward = NormForward,
                                          .backward = {},
                                          .backward_onto = NormBackward});
  SwiGluOp().Register(
      kCountingGpuType,
      {.accepts = cuda::AcceptsSwiGlu, .forward = SwiGluForward, .backward = SwiGluBackward});
  ConvSiluNormOp().Register(
      kCountingGpuType,
      {.accepts = cuda::AcceptsConv, .forward = ConvForward, .backward = ConvBackward});
  RotateOp().Register(
      kCountingGpuType,
      {.accepts = cuda::AcceptsRotation, .forward = RotateForward, .backward = RotateBackward});
}

}  // namespace mnemo
