#include <algorithm>

#include "src/core/backend.h"
#include "src/core/cuda/cross_entropy.h"
#include "src/core/cuda/cuda_backend.h"
#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {
namespace {

bool Accepts(std::span<const Tensor> inputs, const CrossEntropyGradientAttributes&) {
  return SupportsCrossEntropy(inputs[0].dtype(), inputs[1].dtype());
}

std::vector<Tensor> Forward(std::span<const Tensor> inputs,
                            const CrossEntropyGradientAttributes& attributes,
                            std::vector<Tensor>*) {
  const Tensor x = inputs[0].Contiguous(), head = inputs[1].Contiguous();
  const Tensor targets = attributes.targets.Contiguous();
  const int64_t rows = x.dim(0), columns = head.dim(0);
  const Tensor losses = Tensor::Empty({rows, 1}, DType::kF32, x.device());
  const Tensor grad_x = Tensor::Empty(x.shape(), x.dtype(), x.device());
  const Tensor grad_head = Tensor::Empty(head.shape(), DType::kF32, x.device());
  const int64_t piece = PieceOfLogits(rows, columns);
  const Tensor logit_buffer = Tensor::Empty({piece, columns}, DType::kF32, x.device());
  const Tensor gradient_buffer = Tensor::Empty({piece, columns}, x.dtype(), x.device());
  auto& backend = static_cast<CudaDevice&>(Backend::For(x.device()));
  for (int64_t row = 0; row < rows; row += piece) {
    const int64_t end = std::min(rows, row + piece), count = end - row;
    const Tensor x_rows = x.Slice(0, row, end);
    const Tensor logits = logit_buffer.Slice(0, 0, count);
    const Tensor gradient = gradient_buffer.Slice(0, 0, count);
    backend.Gemm(x_rows, head.Transpose(), 1, 0, logits);
    {
      CudaScratch scratch(backend);
      LossAndGradient(scratch.launch(),
                      {.logits = logits.data<float>(), .rows = count, .columns = columns},
                      {.targets = targets.data<int32_t>() + row,
                       .scale = static_cast<float>(attributes.scale),
                       .losses = losses.data<float>() + row,
                       .dtype = x.dtype(),
                       .gradient = gradient.raw()});
    }
    backend.Gemm(gradient, head, 1, 0, grad_x.Slice(0, row, end));
    backend.Gemm(gradient.Transpose(), x_rows, 1, row == 0 ? 0 : 1, grad_head);
  }
  if (rows == 0) backend.Fill(grad_head, 0);
  return {losses, grad_x, grad_head};
}

}  // namespace

void RegisterCrossEntropyGradient() {
  CrossEntropyGradientOp().Register(DeviceType::kCuda,
                                    {.accepts = Accepts, .forward = Forward, .backward = {}});
}

}  // namespace mnemo::cuda
