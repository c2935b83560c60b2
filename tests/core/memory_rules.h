// Which rules the exactness tests go through.
#pragma once

#include <vector>

#include "src/core/fused/memory_rule.h"

namespace mnemo::testing {

// Every combination of depth 1 to 4 with all options: heads of 4, hidden 6, chunks of 4.
inline std::vector<MemoryRule> AllRules() {
  std::vector<MemoryRule> rules;
  for (int bits = 0; bits < 4 * 3 * 128; ++bits) {
    int rest = bits;
    const auto take = [&rest](int choices) {
      const int choice = rest % choices;
      rest /= choices;
      return choice;
    };
    MemoryRule rule;
    rule.head_dim = 4;
    rule.hidden = 6;
    rule.chunk = 4;
    rule.depth = 1 + take(4);
    rule.forgetting = static_cast<Forgetting>(take(3));
    rule.activation = static_cast<MemoryActivation>(take(2));
    rule.residual = take(2);
    rule.layer_norm = take(2);
    rule.biases = take(2);
    rule.momentum = take(2);
    rule.clamp = take(2) ? 1.5 : 0;
    rule.row_scale = take(2);
    rules.push_back(rule);
  }
  return rules;
}

// Every `stride`-th of them; a stride prime to the number of choices meets every pair of options.
inline std::vector<MemoryRule> SomeRules(size_t stride) {
  const std::vector<MemoryRule> all = AllRules();
  std::vector<MemoryRule> rules;
  for (size_t i = 0; i < all.size(); i += stride) rules.push_back(all[i]);
  return rules;
}

}  // namespace mnemo::testing
