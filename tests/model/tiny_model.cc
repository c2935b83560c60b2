#include "tests/model/tiny_model.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numeric>

#include "src/core/random.h"

namespace mnemo::testing {

ModelSpec TinySpec(BlockKind block) {
  ModelSpec spec{};
  spec.block = block;
  spec.layers = 2;
  spec.width = 12;
  spec.heads = 2;
  spec.vocabulary = 11;
  spec.mlp_hidden = 10;
  spec.epsilon = 1e-6;
  spec.rule = {.depth = 2, .head_dim = 6, .hidden = 10, .chunk = 4};
  spec.gates = {.theta_max = 0.3,
                .eta_max = 0.9,
                .alpha_max = 0.5,
                .average_surprise = true,
                .theta_bias = 0,
                .eta_bias = 0,
                .alpha_first = 1e-1,
                .alpha_last = 1e-2};
  spec.unit_initial_weights = true;
  spec.normalize_qk = true;
  spec.window = 6;
  spec.segment = 8;
  spec.persistent_tokens = 2;
  spec.rope_base = 100;
  return spec;
}

TinyModel MakeTinyModel(const std::string& name, const ModelSpec& spec, uint64_t seed) {
  ParameterSet parameters = ParameterSet::Initialize(spec, seed, DType::kF64);
  // First values plus noise, so that no gate, bias or norm is trivial.
  for (size_t i = 0; i < parameters.size(); ++i) {
    const RandomStream noise(seed, 1, parameters.info(i).name);
    std::vector<double> values = parameters[i].ToDoubles();
    for (size_t k = 0; k < values.size(); ++k) values[k] += 0.2 * noise.Normal(k);
    parameters.Set(i, Tensor::FromHost(values, parameters[i].shape(), DType::kF64));
  }
  return {name, spec, parameters};
}

std::vector<TinyModel> AllTinyModels() {
  std::vector<TinyModel> models;
  const std::pair<const char*, BlockKind> blocks[] = {{"lmm", BlockKind::kLmm},
                                                      {"mac", BlockKind::kMac},
                                                      {"mag", BlockKind::kMag},
                                                      {"mal", BlockKind::kMal},
                                                      {"transformer", BlockKind::kTransformer}};
  for (const auto& [name, kind] : blocks) models.push_back(MakeTinyModel(name, TinySpec(kind)));

  ModelSpec full = TinySpec(BlockKind::kTransformer);
  full.window = 0;
  full.tied_embeddings = true;
  full.persistent_tokens = 0;
  models.push_back(MakeTinyModel("full transformer, tied", full));

  ModelSpec initial = TinySpec(BlockKind::kMac);
  initial.rule.forgetting = Forgetting::kTowardsInitial;
  initial.rule.biases = true;
  initial.rule.clamp = 0.7;
  initial.persistent_tokens = 0;
  models.push_back(MakeTinyModel("mac towards initial, biases, clamp", initial));

  ModelSpec linear = TinySpec(BlockKind::kMag);
  linear.rule.depth = 1;
  linear.rule.residual = linear.rule.layer_norm = false;
  linear.gates.average_surprise = false;
  linear.unit_initial_weights = false;
  models.push_back(MakeTinyModel("mag, linear memory", linear));

  for (const int depth : {1, 2}) {  // TTT-Linear, TTT-MLP
    ModelSpec ttt = TinySpec(BlockKind::kLmm);
    ttt.rule.depth = depth;
    ttt.rule.biases = ttt.rule.row_scale = true;
    ttt.rule.momentum = false;
    ttt.rule.forgetting = Forgetting::kNever;
    ttt.rule.activation = MemoryActivation::kGelu;
    ttt.gates.average_surprise = ttt.normalize_qk = false;
    ttt.gates.theta_max = (depth == 1 ? 1.0 : 0.1) / static_cast<double>(ttt.head_dim());
    ttt.shared_qk_projection = true;
    ttt.output_gate = MemoryActivation::kGelu;
    models.push_back(MakeTinyModel(depth == 1 ? "ttt linear" : "ttt mlp", ttt));
  }
  return models;
}

ParameterSet MixedPrecision(const ParameterSet& parameters) {
  ParameterSet mixed(parameters.infos(), DType::kF32, {});
  for (size_t i = 0; i < mixed.size(); ++i) {
    const DType held = mixed.info(i).narrow ? DType::kBF16 : DType::kF32;
    mixed.Set(i, parameters[i].To(held).To(DType::kF32));
  }
  mixed.AddComputeCopies(DType::kBF16);
  return mixed;
}

ParameterSet InDouble(const ParameterSet& parameters) {
  ParameterSet wide(parameters.infos(), DType::kF64, {});
  for (size_t i = 0; i < wide.size(); ++i) wide.Set(i, parameters.Compute(i).To(DType::kF64));
  return wide;
}

std::string TestNameOf(int model) {
  std::string name = AllTinyModels()[model].name;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

std::vector<std::vector<int>> RandomTokens(const ModelSpec& spec, int batch, int64_t length,
                                           uint64_t seed) {
  const RandomStream stream(seed, 0, "tokens");
  std::vector<std::vector<int>> sequences(batch, std::vector<int>(length + 1));
  uint64_t next = 0;
  for (std::vector<int>& sequence : sequences) {
    for (int& token : sequence) {
      token = static_cast<int>(stream.Below(next++, static_cast<uint64_t>(spec.vocabulary)));
    }
  }
  return sequences;
}

FixedSource::FixedSource(const ModelSpec& spec, std::vector<std::vector<int>> sequences,
                         int64_t batch, std::vector<int64_t> slices, std::vector<int64_t> starts,
                         DType dtype)
    : spec_(spec),
      sequences_(std::move(sequences)),
      batch_(batch),
      slices_(std::move(slices)),
      starts_(std::move(starts)),
      dtype_(dtype) {}

SliceTokens FixedSource::Get(int micro_batch, int64_t slice) {
  SliceTokens result;
  SliceContext& context = result.context;
  context.position = std::accumulate(slices_.begin(), slices_.begin() + slice, int64_t{0});
  context.length = slices_[slice];
  std::vector<int32_t> tokens, targets;
  for (int64_t b = 0; b < batch_; ++b) {
    const std::vector<int>& sequence = sequences_[micro_batch * batch_ + b];
    for (int64_t t = context.position; t < context.position + context.length; ++t) {
      tokens.push_back(sequence[t]);
      targets.push_back(sequence[t + 1]);
    }
  }
  const Shape shape{batch_ * context.length};
  result.tokens = Tensor::FromHost(tokens, shape);
  result.targets = Tensor::FromHost(targets, shape);
  if (starts_.empty()) return result;
  const int64_t chunk = spec_.has_memory() ? spec_.rule.chunk : 1;
  const int64_t chunks = (context.length + chunk - 1) / chunk;
  std::vector<double> resets;
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t t = context.position; t < context.position + context.length; ++t) {
      int64_t start = 0;
      for (const int64_t s : starts_) start = s <= t ? std::max(start, s) : start;
      context.starts.push_back(start);
    }
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t first = context.position + c * chunk;
      resets.push_back(std::count(starts_.begin(), starts_.end(), first) > 0 ? 1 : 0);
    }
  }
  context.resets = Tensor::FromHost(resets, {batch_, chunks}, dtype_);
  return result;
}

StepResult RunStep(const ModelSpec& spec, const ParameterSet& parameters,
                   const std::vector<std::vector<int>>& sequences, const StepOptions& options) {
  FixedSource source(spec, sequences, options.batch, options.slices, options.starts,
                     parameters.flat().dtype());
  const int micro_batches = static_cast<int>(sequences.size() / options.batch);
  const int64_t length = static_cast<int64_t>(sequences[0].size()) - 1;
  StepResult result;
  result.gradients = ParameterSet::Zeros(spec, parameters[0].dtype());
  WavefrontOptions wavefront;
  wavefront.batch = options.batch;
  wavefront.rematerialization = options.policy;
  wavefront.vocabulary_tile = 4;
  wavefront.loss_scale = 1.0 / static_cast<double>(length * sequences.size());
  UnitRunner runner(spec, parameters, source, spec.layers, wavefront,
                    options.gradients ? &result.gradients : nullptr);
  const ScheduleShape shape{.slices = static_cast<int64_t>(options.slices.size()),
                            .ranks = 1,
                            .layers = spec.layers,
                            .micro_batches = micro_batches};
  RunForward(shape, runner);
  if (options.gradients) RunBackward(shape, runner);
  result.loss = runner.LossSum();
  result.losses.resize(sequences.size());
  for (int m = 0; m < micro_batches; ++m) {
    for (int64_t s = 0; s < shape.slices; ++s) {
      const std::vector<double> losses = runner.Losses(m, s).ToDoubles();
      const int64_t n = options.slices[s];
      for (int64_t b = 0; b < options.batch; ++b) {
        std::vector<double>& row = result.losses[m * options.batch + b];
        row.insert(row.end(), losses.begin() + b * n, losses.begin() + (b + 1) * n);
      }
    }
  }
  return result;
}

double RelativeError(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.ToDoubles(), y = b.ToDoubles();
  double difference = 0, scale = 1e-30;
  for (size_t i = 0; i < x.size(); ++i) {
    difference = std::max(difference, std::isnan(x[i] - y[i]) ? INFINITY : std::abs(x[i] - y[i]));
    scale = std::max(scale, std::abs(x[i]));
  }
  return difference / scale;
}

}  // namespace mnemo::testing
