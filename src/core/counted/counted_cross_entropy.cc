#include <algorithm>

#include "src/core/counted/counted_kernels.h"
#include "src/core/counting_backend.h"
#include "src/core/cuda/cross_entropy_sizes.h"
#include "src/core/fused/fused_ops.h"

// Follows cuda/cross_entropy_op.cc and cuda/cross_entropy_gradient_op.cc.
namespace mnemo {
namespace {

using Tensors = std::vector<Tensor>;
using List = std::span<const Tensor>;

bool Accepts(List inputs) {
  return cuda::SupportsCrossEntropy(inputs[0].dtype(), inputs[1].dtype());
}

int64_t TileElements(const Tensor& x, const Tensor& head, const CrossEntropyAttributes& a) {
  return std::min(cuda::kLogitTileRows, x.dim(0)) *
         std::min({a.tile, cuda::kMaxTileColumns, head.dim(0)});
}

Tensors Forward(List inputs, const CrossEntropyAttributes& attributes, Tensors* saved) {
  const Tensor x = inputs[0].Contiguous(), head = inputs[1].Contiguous();
  const Tensor logits = Tensor::Empty({TileElements(x, head, attributes)}, DType::kF32, x.device());
  const auto column = [&] { return Tensor::Empty({x.dim(0), 1}, DType::kF32, x.device()); };
  const Tensor log_sums = column(), picked = column(), maxima = column(), sums = column();
  const Tensor targets = attributes.targets.Contiguous();
  if (saved != nullptr) saved->push_back(log_sums);
  return {log_sums, picked};
}

Tensors Backward(List inputs, const CrossEntropyAttributes& attributes, List, List gradients,
                 const std::vector<bool>&) {
  const Tensor x = inputs[0].Contiguous(), head = inputs[1].Contiguous();
  const int64_t tile = TileElements(x, head, attributes);
  const Tensor logits = Tensor::Empty({tile}, DType::kF32, x.device());
  const Tensor targets = attributes.targets.Contiguous();
  const Tensor grad_log_sums = gradients[0].To(DType::kF32).Contiguous();
  const Tensor grad_picked = gradients[1].To(DType::kF32).Contiguous();
  const Tensor grad_x = Tensor::Empty(x.shape(), DType::kF32, x.device());
  const Tensor grad_head = Tensor::Empty(head.shape(), DType::kF32, x.device());
  const Tensor narrow = Tensor::Empty({tile}, x.dtype(), x.device());
  return {grad_x.To(inputs[0].dtype()), grad_head.To(inputs[1].dtype())};
}

Tensors GradientForward(List inputs, const CrossEntropyGradientAttributes& attributes, Tensors*) {
  const Tensor x = inputs[0].Contiguous(), head = inputs[1].Contiguous();
  const Tensor targets = attributes.targets.Contiguous();
  const int64_t rows = x.dim(0), columns = head.dim(0);
  const Tensor losses = Tensor::Empty({rows, 1}, DType::kF32, x.device());
  const Tensor grad_x = Tensor::Empty(x.shape(), x.dtype(), x.device());
  const Tensor grad_head = Tensor::Empty(head.shape(), DType::kF32, x.device());
  const int64_t piece = cuda::PieceOfLogits(rows, columns);
  const Tensor logits = Tensor::Empty({piece, columns}, DType::kF32, x.device());
  const Tensor gradient = Tensor::Empty({piece, columns}, x.dtype(), x.device());
  return {losses, grad_x, grad_head};
}

}  // namespace

void RegisterCountedCrossEntropy() {
  CrossEntropyOp().Register(
      kCountingGpuType,
      {.accepts = [](List inputs, const CrossEntropyAttributes&) { return Accepts(inputs); },
       .forward = Forward,
       .backward = Backward});
  CrossEntropyGradientOp().Register(
      kCountingGpuType,
      {.accepts = [](List inputs,
                     const CrossEntropyGradientAttributes&) { return Accepts(inputs); },
       .forward = GradientForward,
       .backward = {}});
}

}  // namespace mnemo
