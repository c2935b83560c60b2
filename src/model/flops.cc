#include "src/model/flops.h"

#include <algorithm>

namespace mnemo {
namespace {

constexpr double kConvTaps = 4;

// The mean over positions of min(position + 1, limit), positions from 0 to length - 1.
double MeanVisible(double length, double limit) {
  const double ramp = std::min(length, limit);
  return (ramp * (ramp + 1) / 2 + (length - ramp) * ramp) / length;
}

// Keys and values that a token sees, on average.
double MeanKeys(const ModelSpec& spec, int64_t sequence_length) {
  const double length = static_cast<double>(sequence_length);
  const double persistent = static_cast<double>(spec.persistent_tokens);
  if (spec.block == BlockKind::kMac) {
    // Rows of its segment up to itself, and as many recalled ones.
    const double segment = static_cast<double>(std::min(spec.segment, sequence_length));
    return persistent + 2 * MeanVisible(segment, segment);
  }
  const double window = spec.window == 0 ? length : static_cast<double>(spec.window);
  return persistent + MeanVisible(length, window);
}

double LinearPerLayer(const ModelSpec& spec) {
  const double d = static_cast<double>(spec.width), h = static_cast<double>(spec.heads);
  double weights = d * d + 3 * d * static_cast<double>(spec.mlp_hidden);  // output, MLP
  if (spec.has_memory()) {
    weights += (spec.shared_qk_projection ? 2 : 3) * d * d + 3 * kConvTaps * d;
    const int gates =
        1 + (spec.rule.momentum ? 1 : 0) + (spec.rule.forgetting == Forgetting::kNever ? 0 : 1);
    weights += gates * h * d;
  }
  if (spec.has_attention()) weights += 3 * d * d;
  if (spec.block == BlockKind::kMac) weights += 3 * d * d;  // recall; keys and values of h
  if (spec.block == BlockKind::kLmm) weights += d * d;      // output gate
  if (spec.block == BlockKind::kMal) weights += 2 * d * d;  // output gate, memory output
  return 2 * weights;
}

double WeightsPerHead(const MemoryRule& rule) {
  double sum = 0;
  for (int i = 0; i < rule.depth; ++i) {
    sum += static_cast<double>(rule.in_dim(i)) * static_cast<double>(rule.out_dim(i));
  }
  return sum;
}

}  // namespace

double MemoryFlopsPerHead(const MemoryRule& rule) {
  const double s = WeightsPerHead(rule);
  const double first = static_cast<double>(rule.in_dim(0) * rule.out_dim(0));
  const double chunk = static_cast<double>(rule.chunk);
  double rows = 0;
  for (int i = 0; i < rule.depth; ++i) {
    rows += static_cast<double>(rule.in_dim(i) + rule.out_dim(i));
  }
  double flops = 2 * s + 2 * (s - first) + 2 * s + 2 * chunk * rows + 2 * s;
  if (rule.momentum) flops += 4 * s;
  if (rule.forgetting == Forgetting::kTowardsInitial) flops += 4 * s;
  return flops;
}

ForwardFlops CountForwardFlops(const ModelSpec& spec, int64_t sequence_length) {
  const double layers = spec.layers, d = static_cast<double>(spec.width);
  const double heads = static_cast<double>(spec.heads);
  ForwardFlops flops;
  flops.linear = layers * LinearPerLayer(spec) + 2 * d * static_cast<double>(spec.vocabulary);
  if (spec.has_attention()) flops.attention = layers * 4 * d * MeanKeys(spec, sequence_length);
  if (spec.has_memory()) {
    double per_head = MemoryFlopsPerHead(spec.rule);
    if (spec.block == BlockKind::kMac) per_head += 2 * WeightsPerHead(spec.rule);  // recall
    flops.memory = layers * heads * per_head;
  }
  return flops;
}

}  // namespace mnemo
