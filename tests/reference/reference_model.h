// Reference of a whole block and of the language model, for one sequence.
//
//   block: x += Mixer(RMSNorm(x));  x += SwiGLU(RMSNorm(x))
//   model: logits = RMSNorm(blocks(embedding[tokens])) head^T
// A document begins with everything cleared: W = W_0, S = 0, no rows before it for the convolutions
// and the attention, position 0. So documents are computed as sequences of their own.
#pragma once

#include <vector>

#include "tests/reference/reference_weights.h"

namespace mnemo::reference {

struct Block {
  BlockOptions options;
  BlockWeights weights;
};

struct Model {
  Matrix embedding;  // [V, d]
  std::vector<Block> blocks;
  Vector final_norm;      // [d]
  Matrix head;            // [V, d]; empty: tied to the embedding
  double epsilon = 1e-6;  // of the final norm
};

// The mixer that options.kind names. x [T, d] is normalised already.
Matrix Mixer(const Block& block, const Matrix& x);

// x [T, d] -> [T, d]. `starts`: first tokens of documents, ascending, at the beginning of a chunk
// (MAC: of a segment); 0 need not be named.
Matrix RunBlock(const Block& block, const Matrix& x, const std::vector<int>& starts = {});

// tokens [T] -> logits [T, V].
Matrix RunModel(const Model& model, const std::vector<int>& tokens,
                const std::vector<int>& starts = {});

// Cross-entropy of each token in nats; targets [T], negative: masked, loss 0.
Vector TokenLosses(const Model& model, const std::vector<int>& tokens,
                   const std::vector<int>& targets, const std::vector<int>& starts = {});

}  // namespace mnemo::reference
