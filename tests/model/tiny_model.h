// Small models in f64 for the exactness tests: every block, random weights everywhere (gates, norms
// and biases too, so that nothing is hidden by a zero), tokens, and the same model as a plain
// reference.
#pragma once

#include <string>
#include <vector>

#include "src/model/unit_runner.h"
#include "tests/reference/reference_model.h"

namespace mnemo::testing {

struct TinyModel {
  std::string name;
  ModelSpec spec;
  ParameterSet parameters;
};

// d 12, 2 heads, 2 layers, vocabulary 11, chunk 4, segment 8, window 6.
ModelSpec TinySpec(BlockKind block);
TinyModel MakeTinyModel(const std::string& name, const ModelSpec& spec, uint64_t seed = 1);
// Every block, and variants that change its path: TTT presets, no persistent tokens, tied, depth 1,
// full attention.
std::vector<TinyModel> AllTinyModels();

// The same parameters with mixed precision: narrow ones as bf16 can hold them, with their compute
// copies, the others as f32 can. And any parameters in f64, with the values that a model reads.
ParameterSet MixedPrecision(const ParameterSet& parameters);
ParameterSet InDouble(const ParameterSet& parameters);

// Of the model at that place of AllTinyModels(), as GoogleTest takes names: letters and digits.
std::string TestNameOf(int model);

reference::Model ToReference(const TinyModel& model);

// Sequences [B][T + 1] of random tokens.
std::vector<std::vector<int>> RandomTokens(const ModelSpec& spec, int batch, int64_t length,
                                           uint64_t seed = 2);

// Serves slices of fixed sequences. Micro-batch m holds sequences [m * batch, (m + 1) * batch).
class FixedSource : public TokenSource {
 public:
  // `slices` are lengths that add up to T. `starts`: first tokens of documents, for all sequences.
  // `dtype` is that of the memory's state.
  FixedSource(const ModelSpec& spec, std::vector<std::vector<int>> sequences, int64_t batch,
              std::vector<int64_t> slices, std::vector<int64_t> starts = {},
              DType dtype = DType::kF64);
  SliceTokens Get(int micro_batch, int64_t slice) override;

 private:
  const ModelSpec& spec_;
  std::vector<std::vector<int>> sequences_;
  int64_t batch_;
  std::vector<int64_t> slices_, starts_;
  DType dtype_;
};

struct StepResult {
  std::vector<std::vector<double>> losses;  // [sequence][token]
  double loss = 0;
  ParameterSet gradients;  // of the sum of losses times 1 / (number of tokens)
};

struct StepOptions {
  int64_t batch = 1;
  std::vector<int64_t> slices = {};  // lengths
  std::vector<int64_t> starts = {};
  Rematerialization policy = Rematerialization::kUnits;
  bool gradients = true;
};

// Forward, and backward if asked for, over all sequences.
StepResult RunStep(const ModelSpec& spec, const ParameterSet& parameters,
                   const std::vector<std::vector<int>>& sequences, const StepOptions& options);

// max |a - b| / (1e-30 + max |a|) over one tensor's values.
double RelativeError(const Tensor& a, const Tensor& b);

}  // namespace mnemo::testing
