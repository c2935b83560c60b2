// Reference of the memory with its projections and gates over all heads, and of the LMM mixer.
//
//   q, k, v = SiLU(conv(x W)) per head, q and k L2-normalised
//   eta = eta_max sigmoid(.), alpha = alpha_max sigmoid(.), theta = theta_max sigmoid(.) (1 - eta)
//   LMM: out = (RMSNorm(y) o SiLU(x W_g)) W_o
#pragma once

#include <vector>

#include "tests/reference/reference_weights.h"

namespace mnemo::reference {

// The memory's inputs for each head. The convolution begins with row 0 of x.
std::vector<MemoryInputs> ProjectInputs(const BlockOptions& options, const BlockWeights& weights,
                                        const Matrix& x);

// Rows begin..end-1 of every head's inputs through its memory, from `states` (one for each head;
// updated). Chunks are counted from `begin`. Returns y [end - begin, d], heads concatenated.
Matrix RunHeads(const BlockOptions& options, const BlockWeights& weights,
                const std::vector<MemoryInputs>& inputs, int begin, int end,
                std::vector<MemoryState>& states);

std::vector<MemoryState> FirstStates(const BlockWeights& weights);

// The raw read y [T, d] of the memory over all rows, from the first state.
Matrix MemoryOverRows(const BlockOptions& options, const BlockWeights& weights, const Matrix& x);

// RMSNorm(y) o SiLU(x W_g), y = MemoryOverRows: what LMM and MAL project.
Matrix GatedMemory(const BlockOptions& options, const BlockWeights& weights, const Matrix& x);

// x [T, d] is normalised already.
Matrix LmmMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x);

}  // namespace mnemo::reference
