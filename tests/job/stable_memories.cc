#include "tests/job/stable_memories.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "src/model/memory_trace.h"

namespace mnemo {

void ExpectStableMemories(const ModelSpec& spec, const ParameterSet& parameters,
                          std::span<const int32_t> tokens) {
  std::vector<Tensor> values;
  for (const Tensor& value : parameters.values()) values.push_back(value.To(DType::kF64));
  const ParameterSet in_f64(parameters.infos(), std::move(values));
  int layers = 0;
  const absl::Status traced =
      TraceMemories(spec, in_f64, tokens, [&](int layer, const MemoryRun& memory) {
        for (const HeadGrowth& head : MeasureGrowth(memory, 1)) {
          std::printf("  layer %d: adjoint growth %.3g, perturbation growth %.3g\n", layer,
                      head.adjoint, head.perturbation);
          EXPECT_TRUE(head.Passes());
        }
        ++layers;
        return absl::OkStatus();
      });
  ASSERT_TRUE(traced.ok()) << traced;
  EXPECT_EQ(layers, spec.layers);
}

}  // namespace mnemo
