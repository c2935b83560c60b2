#include "src/core/cuda/layers_op.h"

#include "src/core/backend.h"
#include "src/core/cuda/coverage.h"
#include "src/core/cuda/cuda_backend.h"
#include "src/core/cuda/layer_kernels.h"
#include "src/core/cuda/layout.h"
#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {
namespace {

Tensor EmptyLike(const Tensor& x) { return Tensor::Empty(x.shape(), x.dtype(), x.device()); }

// What the kernels read: dense, on 16 bytes.
Tensor Dense(const Tensor& x) {
  const bool aligned = reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0;
  return x.contiguous() && aligned ? x : x.Clone();
}
Tensor DenseFloats(const Tensor& x) { return Dense(x.To(DType::kF32)); }

CudaDevice& DeviceOf(const Tensor& x) { return static_cast<CudaDevice&>(Backend::For(x.device())); }

std::vector<Tensor> NormForward(std::span<const Tensor> inputs, const NormAttributes& attributes,
                                std::vector<Tensor>*) {
  const Tensor x = Dense(inputs[0]), weight = DenseFloats(inputs[1]), y = EmptyLike(x);
  CudaScratch scratch(DeviceOf(x));
  RmsNorm(scratch.launch(), NormShapeOf(x, attributes), x.raw(), weight.data<float>(), y.raw());
  return {y};
}

std::vector<Tensor> NormBackward(std::span<const Tensor> inputs, const NormAttributes& attributes,
                                 std::span<const Tensor>, std::span<const Tensor> gradients,
                                 const std::vector<bool>& needs, std::span<const Tensor> so_far) {
  const Tensor x = Dense(inputs[0]), weight = DenseFloats(inputs[1]);
  const Tensor grad_y = Dense(gradients[0]), grad_x = EmptyLike(x);
  const Tensor before = so_far[0].defined() ? Dense(so_far[0]) : Tensor();
  Tensor grad_weight;
  if (needs[1]) grad_weight = EmptyLike(weight);
  CudaScratch scratch(DeviceOf(x));
  RmsNormBackward(scratch.launch(), NormShapeOf(x, attributes), x.raw(), weight.data<float>(),
                  grad_y.raw(), before.defined() ? before.raw() : nullptr, grad_x.raw(),
                  needs[1] ? grad_weight.data<float>() : nullptr);
  if (!needs[1]) return {grad_x, Tensor()};
  const Tensor own = grad_weight.To(inputs[1].dtype());
  if (so_far[1].defined()) Backend::For(x.device()).Binary(BinaryOp::kAdd, own, so_far[1], own);
  return {grad_x, own};
}

std::vector<Tensor> SwiGluForward(std::span<const Tensor> inputs, const NoAttributes&,
                                  std::vector<Tensor>*) {
  const Tensor a = Dense(inputs[0]), b = Dense(inputs[1]), y = EmptyLike(a);
  CudaScratch scratch(DeviceOf(a));
  SwiGlu(scratch.launch(), a.dtype(), a.elements(), a.raw(), b.raw(), y.raw());
  return {y};
}

std::vector<Tensor> SwiGluGradients(std::span<const Tensor> inputs, const NoAttributes&,
                                    std::span<const Tensor>, std::span<const Tensor> gradients,
                                    const std::vector<bool>&) {
  const Tensor a = Dense(inputs[0]), b = Dense(inputs[1]), grad_y = Dense(gradients[0]);
  const Tensor grad_a = EmptyLike(a), grad_b = EmptyLike(b);
  CudaScratch scratch(DeviceOf(a));
  SwiGluBackward(scratch.launch(), a.dtype(), a.elements(), a.raw(), b.raw(), grad_y.raw(),
                 grad_a.raw(), grad_b.raw());
  return {grad_a, grad_b};
}

std::vector<Tensor> ConvForward(std::span<const Tensor> inputs, const ConvAttributes& attributes,
                                std::vector<Tensor>*) {
  const Tensor before = Dense(inputs[0]), x = Dense(inputs[1]), weight = DenseFloats(inputs[2]);
  const Tensor y = EmptyLike(x);
  CudaScratch scratch(DeviceOf(x));
  ConvSiluNorm(scratch.launch(), ConvShapeOf(x, attributes), before.raw(), x.raw(),
               weight.data<float>(), y.raw());
  return {y};
}

std::vector<Tensor> ConvBackward(std::span<const Tensor> inputs, const ConvAttributes& attributes,
                                 std::span<const Tensor>, std::span<const Tensor> gradients,
                                 const std::vector<bool>&) {
  const Tensor before = Dense(inputs[0]), x = Dense(inputs[1]), weight = DenseFloats(inputs[2]);
  const Tensor grad_y = Dense(gradients[0]);
  const Tensor grad_before = EmptyLike(before), grad_x = EmptyLike(x);
  const Tensor grad_weight = EmptyLike(weight);
  CudaScratch scratch(DeviceOf(x));
  ConvSiluNormBackward(scratch.launch(), ConvShapeOf(x, attributes), before.raw(), x.raw(),
                       weight.data<float>(), grad_y.raw(), grad_before.raw(), grad_x.raw(),
                       grad_weight.data<float>());
  return {grad_before, grad_x, grad_weight.To(inputs[2].dtype())};
}

// x [B, H, T, f] turned by the tables, [B or 1, 1, T, f / 2], or back.
Tensor Turn(const Tensor& x_view, const Tensor& cosines, const Tensor& sines, bool inverse) {
  const Tensor x = IsPerHead(x_view) ? x_view : x_view.Clone();
  const Tensor cos = Dense(cosines), sin = Dense(sines);
  const Tensor out = EmptyPerHead(x.dim(0), x.dim(1), x.dim(2), x.dim(3), x.dtype(), x.device());
  RotaryShape shape;
  shape.dtype = x.dtype();
  shape.batch = x.dim(0);
  shape.heads = x.dim(1);
  shape.tokens = x.dim(2);
  shape.head_dim = x.dim(3);
  shape.batch_stride = x.strides()[0];
  shape.head_stride = x.strides()[1];
  shape.token_stride = x.strides()[2];
  shape.table_batch_stride = cos.dim(0) == 1 ? 0 : cos.dim(2) * cos.dim(3);
  CudaScratch scratch(DeviceOf(x));
  Rotary(scratch.launch(), shape, x.raw(), cos.data<float>(), sin.data<float>(), inverse,
         out.raw());
  return out;
}

}  // namespace

void RegisterLayers() {
  RmsNormOp().Register(DeviceType::kCuda, {.accepts = AcceptsNorm,
                                           .forward = NormForward,
                                           .backward = {},
                                           .backward_onto = NormBackward});
  SwiGluOp().Register(
      DeviceType::kCuda,
      {.accepts = AcceptsSwiGlu, .forward = SwiGluForward, .backward = SwiGluGradients});
  ConvSiluNormOp().Register(
      DeviceType::kCuda,
      {.accepts = AcceptsConv, .forward = ConvForward, .backward = ConvBackward});
  RotateOp().Register(
      DeviceType::kCuda,
      {.accepts = AcceptsRotation,
       .forward =
           [](std::span<const Tensor> inputs, const NoAttributes&, std::vector<Tensor>*) {
             return std::vector<Tensor>{Turn(inputs[0], inputs[1], inputs[2], false)};
           },
       // The tables are constants.
       .backward =
           [](std::span<const Tensor> inputs, const NoAttributes&, std::span<const Tensor>,
              std::span<const Tensor> gradients, const std::vector<bool>&) {
             return std::vector<Tensor>{Turn(gradients[0], inputs[1], inputs[2], true), {}, {}};
           }});
}

}  // namespace mnemo::cuda
