#include "src/core/cuda/coverage.h"

namespace mnemo::cuda {
namespace {

bool IsRowType(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF32; }

}  // namespace

NormShape NormShapeOf(const Tensor& x, const NormAttributes& attributes) {
  NormShape shape;
  shape.dtype = x.dtype();
  shape.width = x.dim(-1);
  shape.rows = shape.width > 0 ? x.elements() / shape.width : 0;
  shape.heads = attributes.heads;
  shape.epsilon = static_cast<float>(attributes.epsilon);
  return shape;
}

ConvShape ConvShapeOf(const Tensor& x, const ConvAttributes& attributes) {
  ConvShape shape;
  shape.dtype = x.dtype();
  shape.batch = x.dim(0);
  shape.tokens = x.dim(1);
  shape.width = x.dim(2);
  shape.heads = attributes.heads;
  shape.epsilon = static_cast<float>(attributes.epsilon);
  return shape;
}

bool AcceptsNorm(std::span<const Tensor> inputs, const NormAttributes& attributes) {
  return SupportsNorm(NormShapeOf(inputs[0], attributes));
}

bool AcceptsSwiGlu(std::span<const Tensor> inputs, const NoAttributes&) {
  return IsRowType(inputs[0].dtype()) && inputs[1].dtype() == inputs[0].dtype() &&
         inputs[0].shape() == inputs[1].shape() && inputs[0].elements() % 8 == 0;
}

bool AcceptsConv(std::span<const Tensor> inputs, const ConvAttributes& attributes) {
  return attributes.reach.empty() && inputs[2].dim(1) == kConvTaps &&
         inputs[0].dtype() == inputs[1].dtype() && SupportsConv(ConvShapeOf(inputs[1], attributes));
}

bool AcceptsRotation(std::span<const Tensor> inputs, const NoAttributes&) {
  return IsRowType(inputs[0].dtype()) && inputs[0].dim(3) % 16 == 0 &&
         inputs[1].dtype() == DType::kF32;
}

}  // namespace mnemo::cuda
