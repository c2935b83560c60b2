// Cross-entropy of a linear head without ever holding all logits: the fused op "cross_entropy".
#pragma once

#include "src/core/tape.h"

namespace mnemo {

class Peers;

// Where the vocabulary is split over peers (peers.h), each with some rows of the head: which ones.
struct VocabularyPart {
  int64_t first = 0;       // entry of the vocabulary that the head's first row stands for
  int64_t vocabulary = 0;  // entries of all peers
  Peers* peers = nullptr;  // null: the head is whole, and the other two mean nothing
};

// loss [N, 1] = -log softmax(x head^T)[target], 0 where a target is negative. x [N, d],
// head [V, d], targets i32 [N]; for bf16 x and head, logits and losses are f32. Logits exist for
// `tile` vocabulary entries at a time. A target of V or more throws TensorError if it lies on the
// CPU; on another device targets have been checked before they went there. With peers, x and
// targets are the same at all of them, and so is the loss; they exchange two numbers a row.
Var CrossEntropy(const Var& x, const Var& head, const Tensor& targets, int64_t tile,
                 const VocabularyPart& part = {});

struct CrossEntropyGradients {
  Tensor losses;   // [N, 1], as above
  Tensor x, head;  // [N, d] in x's dtype, [V, d] of WideType
};
// The same losses, and the gradients of `scale` times their sum, for less than one after the other
// where a kernel keeps logits until it has both: the fused op "cross_entropy_gradient".
CrossEntropyGradients CrossEntropyWithGradients(const Tensor& x, const Tensor& head,
                                                const Tensor& targets, int64_t tile, double scale,
                                                const VocabularyPart& part = {});

}  // namespace mnemo
