// Cross-entropy of a linear head without ever holding all logits: the fused op "cross_entropy".
#pragma once

#include "src/core/tape.h"

namespace mnemo {

// loss [N, 1] = -log softmax(x head^T)[target], 0 where a target is negative. x [N, d],
// head [V, d], targets i32 [N]. Logits exist for `tile` vocabulary entries at a time.
Var CrossEntropy(const Var& x, const Var& head, const Tensor& targets, int64_t tile);

}  // namespace mnemo
