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
  shape.towards_initial = rule.forgetting == Forgetting::kTowardsInitial;
  shape.clamp = static_cast<float>(rule.clamp);
  return shape;
}

bool AcceptsMemoryScan(std::span<const Tensor> list, const MemoryScanAttributes& attributes) {
  const MemoryRule& rule = attributes.rule;
  if (list[0].dtype() != DType::kBF16 || attributes.open_count > 0 ||
      list[0].dim(2) % rule.chunk != 0) {
    return false;
  }
  if (rule.biases || rule.row_scale) return false;
  MemoryScanShape shape = MemoryScanShapeOf(rule, list[0]);
  shape.resets = attributes.resets.defined();
  return MemoryScanSupports(shape);
}

}  // namespace mnemo::cuda
