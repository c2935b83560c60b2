// A call of the memory scan in pieces that kernels can run: the whole chunks, then the tokens of a
// chunk that does not end. To a kernel a short last chunk has ended; in a call's results it stays
// open, with the state it began with and what its tokens write beside.
//
// For any device: a kernel is two functions. Called by the op's implementations on a GPU.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {

// Tokens from the beginning of a chunk on, their parameters and first state. Nothing is tracked.
struct MemoryScanPiece {
  MemoryRule rule;
  MemoryScanInputs inputs;
  Tensor resets;  // [B, chunks] or undefined
};

struct MemoryScanKernel {
  // Writes y [B, H, n, f], on memory that is [B, n, H, f]; returns the state after the last token
  // and, with a clamp, clamp_hits. Sets `saved` to what backward needs, unless it is null.
  std::function<MemoryScanResult(const MemoryScanPiece&, const Tensor& y, Tensor* saved)> forward;
  // From dy and the adjoint of the state after the last token: writes the gradients of q, k and v
  // to tensors that are there, and sets all others; undefined where there is none.
  std::function<void(const MemoryScanPiece&, const Tensor& saved, const Tensor& dy,
                     const MemoryState& dstate, MemoryScanInputs& gradients)>
      backward;
};

// FusedOp's forward and backward of a call that begins with a chunk and has any number of tokens.
std::vector<Tensor> ScanForward(const MemoryScanKernel& kernel, std::span<const Tensor> inputs,
                                const MemoryScanAttributes& attributes, std::vector<Tensor>* saved);
std::vector<Tensor> ScanBackward(const MemoryScanKernel& kernel, std::span<const Tensor> inputs,
                                 const MemoryScanAttributes& attributes,
                                 std::span<const Tensor> saved,
                                 std::span<const Tensor> output_gradients);

}  // namespace mnemo::cuda
