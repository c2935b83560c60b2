#include "src/core/cuda/memory_scan_op.h"

namespace mnemo::cuda {
namespace {

constexpr size_t kAlignment = 1024;  // bytes

}  // namespace

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
  shape.row_scale = rule.row_scale;
  shape.biases = rule.biases;
  return shape;
}

bool AcceptsMemoryScan(std::span<const Tensor> list, const MemoryScanAttributes& attributes) {
  const MemoryRule& rule = attributes.rule;
  if (list[0].dtype() != DType::kBF16 || attributes.open_count > 0) return false;
  MemoryScanShape shape = MemoryScanShapeOf(rule, list[0]);
  shape.resets = attributes.resets.defined();
  return MemoryScanSupports(shape);
}

Tensor MemoryScanSaved::Empty(const MemoryScanShape& shape, Device device) {
  const bool retained = BackwardFollows::Now();
  const size_t bytes =
      retained ? MemoryScanRetainedBytes(shape) + kAlignment : MemoryScanCheckpointBytes(shape);
  const DType dtype = retained ? DType::kBF16 : DType::kF32;
  return Tensor::Empty({static_cast<int64_t>(bytes) / SizeOf(dtype)}, dtype, device);
}

float* MemoryScanSaved::checkpoints() const {
  return is_retained() ? nullptr : tensor_.data<float>();
}

void* MemoryScanSaved::retained() const {
  if (!is_retained()) return nullptr;
  const auto address = reinterpret_cast<uintptr_t>(tensor_.raw());
  return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace mnemo::cuda
