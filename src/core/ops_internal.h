// Shared by the ops_*.cc files.
#pragma once

#include <span>
#include <vector>

#include "src/core/backend.h"
#include "src/core/ops.h"

namespace mnemo::internal {

inline Backend& BackendOf(const Tensor& x) { return Backend::For(x.device()); }

// A new uninitialised tensor with the dtype and device of `like`.
inline Tensor EmptyLike(const Tensor& like, const Shape& shape) {
  return Tensor::Empty(shape, like.dtype(), like.device());
}

// Record() for the common case of one output.
inline Var RecordOne(Primitive primitive, std::initializer_list<Var> inputs, Tensor output,
                     Saves saves, Vjp vjp) {
  return Tape::Record(primitive, std::span(inputs.begin(), inputs.size()), {std::move(output)},
                      saves, std::move(vjp))[0];
}

int NormalizeAxis(const Var& x, int axis, const char* op);
// The shape that a and b broadcast to; throws TensorError naming op if they do not.
Shape BroadcastShape(const Shape& a, const Shape& b, const char* op);
void RequireSameType(const Var& a, const Var& b, const char* op);

}  // namespace mnemo::internal
