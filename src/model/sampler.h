// The choice of the next token.
#pragma once

#include <cstdint>
#include <span>

namespace mnemo {

struct SamplingOptions {
  double temperature = 1;  // 0: always the likeliest token
  int64_t top_k = 0;       // only the k likeliest; 0: all
  double top_p = 1;        // only the likeliest whose probabilities reach p, after top_k; 1: all
  uint64_t seed = 0;
};

// The `index`-th token sampled: a pure function of its arguments. Equal logits rank by their index.
// Throws TensorError if a logit is NaN or +infinity, or if all are -infinity.
int32_t SampleToken(std::span<const double> logits, const SamplingOptions& options, uint64_t index);

}  // namespace mnemo
