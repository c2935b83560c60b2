#include "src/core/cuda/memory_scan_op.h"

namespace mnemo::cuda {

MemoryScanShape MemoryScanShapeOf(const MemoryRule& rule, const Tensor& q) {
  MemoryScanShape shape;
  shape.batch = q.dim(0);
  shape.heads = q.dim(1);
  shape.tokens = q.dim(2);
  shape.head_dim = static_cast<int>(rule.head_dim);
  shape.hidden = static_cast<int>(rule.hidden);
  shape.depth = rule.depth;
  shape.chunk = static_cast<int>(rule.chunk);
  shape.norm = rule.layer_norm;
  shape.residual = rule.residual;
  shape.gelu = rule.activation == MemoryActivation::kGelu;
  shape.epsilon = static_cast<float>(rule.epsilon);
  return shape;
}

bool AcceptsMemoryScan(std::span<const Tensor> list, const MemoryScanAttributes& attributes) {
  const MemoryRule& rule = attributes.rule;
  if (list[0].dtype() != DType::kBF16 || attributes.open_count > 0 || attributes.resets.defined() ||
      list[0].dim(2) % rule.chunk != 0) {
    return false;
  }
  if (rule.biases || rule.row_scale || rule.clamp > 0 ||
      rule.forgetting == Forgetting::kTowardsInitial) {
    return false;
  }
  return MemoryScanSupports(MemoryScanShapeOf(rule, list[0]));
}

}  // namespace mnemo::cuda
