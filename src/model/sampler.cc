#include "src/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "src/core/random.h"
#include "src/core/status.h"

namespace mnemo {

int32_t SampleToken(std::span<const double> logits, const SamplingOptions& options,
                    uint64_t index) {
  double top = -HUGE_VAL;
  for (const double logit : logits) {
    Require(!std::isnan(logit) && logit < HUGE_VAL, "the model's logits are not finite");
    top = std::max(top, logit);
  }
  Require(top > -HUGE_VAL, "the model's logits leave no token to choose");
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  if (options.temperature <= 0) return *std::min_element(order.begin(), order.end(), likelier);
  std::sort(order.begin(), order.end(), likelier);
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(order.size())) {
    order.resize(options.top_k);
  }
  std::vector<double> weights;  // probabilities, but for their sum
  for (const int32_t token : order) {
    weights.push_back(std::exp((logits[token] - top) / options.temperature));
  }
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0;
  size_t count = 0;
  while (count < weights.size() && (count == 0 || kept < options.top_p * all)) {
    kept += weights[count++];
  }
  double left = RandomStream(options.seed, 0, "generate").Uniform(index) * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[count - 1];
}

}  // namespace mnemo
