// A model run forward over sequences piece by piece: a slice, a prompt, a single token. What
// crosses from piece to piece is the carry, so pieces may have any length and the result does not
// depend on how the sequence was cut.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/model/block.h"

namespace mnemo {

// Where documents begin in a slice, from the flags of a token stream: `resets` [B, ceil(n / a)] has
// one flag for each group of a = spec.alignment() tokens; all zeros, or nothing, where documents do
// not reset the state. `document_starts` [B] holds where the document at the slice's first token
// began, and is moved on to its last. With a flag set, `position` is a multiple of a.
SliceContext MakeSliceContext(const ModelSpec& spec, int64_t position, int64_t length,
                              std::span<const uint8_t> resets,
                              std::vector<int64_t>& document_starts, DType dtype, Device device);

// Not thread-safe. Throws TensorError. Where the model is split (tensor_split.h), all ranks of the
// split make the same calls and get the same results.
class SequenceRunner {
 public:
  // Both references outlive the runner. `batch` sequences run side by side.
  SequenceRunner(const ModelSpec& spec, const ParameterSet& parameters, int64_t batch = 1);

  // Runs the next n tokens of each sequence, i32 [B * n]: rows [B * n, d], after the final norm.
  // `resets` as for MakeSliceContext.
  Tensor Run(const Tensor& tokens, std::span<const uint8_t> resets = {});

  // Losses [B * n, 1] of rows that Run returned, in nats; 0 where a target is negative. `tile`
  // columns of the logits exist at a time.
  Tensor Losses(const Tensor& rows, const Tensor& targets, int64_t tile) const;
  // Logits [N, V] of rows [N, d]; of a whole model.
  Tensor Logits(const Tensor& rows) const;

  int64_t position() const { return position_; }  // tokens run so far, of each sequence
  // Bytes of what is carried on, over all layers: constant in the long run, but for full attention,
  // where keys and values grow with every token.
  int64_t StateBytes();

 private:
  Var HeadWeight() const;

  const ModelSpec& spec_;
  const ParameterSet& parameters_;
  int64_t batch_;
  std::vector<UnitParameters> layers_;
  UnitParameters outside_;
  int64_t position_ = 0;
  std::vector<std::optional<Carry>> carries_;
  std::vector<int64_t> document_starts_;
};

}  // namespace mnemo
