// Generation, token by token.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/model/sampler.h"
#include "src/model/sequence_runner.h"

namespace mnemo {

// Not thread-safe. Throws TensorError.
class Generator {
 public:
  // References outlive the generator. Tokens from `vocabulary` on (at most the model's) are never
  // produced: a model may have more than its tokenizer.
  Generator(const ModelSpec& spec, const ParameterSet& parameters, const SamplingOptions& options,
            int64_t vocabulary);

  // The prompt, or more of it, in pieces of at most `slice` tokens. At least one token must have
  // been fed before Next.
  void Feed(std::span<const int32_t> tokens, int64_t slice = 2048);

  // The next token. It is run through the model when the one after it is asked for.
  int32_t Next();

  // Logits [V] of the token that follows everything fed and produced so far.
  std::vector<double> Logits();

  int64_t position() const { return runner_.position(); }
  int64_t StateBytes() { return runner_.StateBytes(); }

 private:
  void RunPending();

  SequenceRunner runner_;
  Device device_;
  SamplingOptions options_;
  int64_t vocabulary_;
  Tensor last_row_;  // [1, d]
  std::optional<int32_t> pending_;
  uint64_t produced_ = 0;
};

}  // namespace mnemo
