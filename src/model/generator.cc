#include "src/model/generator.h"

#include <algorithm>

#include "src/core/status.h"

namespace mnemo {

Generator::Generator(const ModelSpec& spec, const ParameterSet& parameters,
                     const SamplingOptions& options, int64_t vocabulary)
    : runner_(spec, parameters),
      device_(parameters[0].device()),
      options_(options),
      vocabulary_(vocabulary) {
  MNEMO_CHECK(vocabulary >= 1 && vocabulary <= spec.vocabulary);
}

void Generator::Feed(std::span<const int32_t> tokens, int64_t slice) {
  RunPending();
  while (!tokens.empty()) {
    const auto count = std::min<int64_t>(slice, static_cast<int64_t>(tokens.size()));
    const Tensor rows =
        runner_.Run(Tensor::FromHost(tokens.first(static_cast<size_t>(count)), {count}, device_));
    last_row_ = rows.Slice(0, count - 1, count).Clone();
    tokens = tokens.subspan(static_cast<size_t>(count));
  }
}

void Generator::RunPending() {
  if (!pending_.has_value()) return;
  const int32_t token = *pending_;
  pending_.reset();
  Feed({&token, 1});
}

std::vector<double> Generator::Logits() {
  RunPending();
  Require(last_row_.defined(), "generation needs a prompt of at least one token");
  return runner_.Logits(last_row_).ToDoubles();
}

int32_t Generator::Next() {
  const std::vector<double> logits = Logits();
  pending_ =
      SampleToken(std::span(logits).first(static_cast<size_t>(vocabulary_)), options_, produced_++);
  return *pending_;
}

}  // namespace mnemo
