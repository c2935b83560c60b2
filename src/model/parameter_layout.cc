#include "src/model/parameter_layout.h"

#include <cmath>

namespace mnemo {
namespace {

// Taps of the causal convolutions before the memory.
constexpr int64_t kConvTaps = 4;

// Collects one layer's parameters, or those outside the layers.
class Layout {
 public:
  explicit Layout(const ModelSpec& spec) : spec_(spec) {}

  // A matrix that multiplies activations: N(0, scale^2 / fan_in), decayed.
  void Matrix(const std::string& name, int64_t out, int64_t in, double scale = 1) {
    const double deviation = scale / std::sqrt(static_cast<double>(in));
    Add(name, {out, in}, {FirstValues::Kind::kNormal, deviation}, true);
  }
  void Constant(const std::string& name, const Shape& shape, double value) {
    Add(name, shape, {FirstValues::Kind::kConstant, value}, false);
  }
  void Normal(const std::string& name, const Shape& shape, double deviation) {
    Add(name, shape, {FirstValues::Kind::kNormal, deviation}, false);
  }

  void Layer(int layer) {
    layer_ = layer;
    prefix_ = "layers." + std::to_string(layer) + ".";
    const int64_t d = spec_.width;
    Constant("mixer_norm.weight", {d}, 1);
    if (spec_.has_memory()) Memory();
    if (spec_.has_attention()) Attention();
    if (spec_.block == BlockKind::kLmm || spec_.block == BlockKind::kMal) {
      Matrix("output_gate.weight", d, d);
    }
    Matrix("output.weight", d, d, residual_scale());
    Constant("mlp_norm.weight", {d}, 1);
    Matrix("mlp.gate.weight", spec_.mlp_hidden, d);
    Matrix("mlp.up.weight", spec_.mlp_hidden, d);
    Matrix("mlp.down.weight", d, spec_.mlp_hidden, residual_scale());
    layer_ = -1;
    prefix_.clear();
  }

  std::vector<ParameterDescription> list;

 private:
  // What adds to the residual stream begins smaller, the more layers there are.
  double residual_scale() const { return 1 / std::sqrt(2.0 * spec_.layers); }

  void Add(const std::string& name, const Shape& shape, FirstValues first, bool decay) {
    list.push_back({{prefix_ + name, shape, layer_, decay}, first});
  }

  void Memory() {
    const int64_t d = spec_.width;
    Matrix("memory.q.weight", d, d);
    if (!spec_.shared_qk_projection) Matrix("memory.k.weight", d, d);
    Matrix("memory.v.weight", d, d);
    for (const char* name :
         {"memory.q_conv.weight", "memory.k_conv.weight", "memory.v_conv.weight"}) {
      Normal(name, {d, kConvTaps}, 1 / std::sqrt(static_cast<double>(kConvTaps)));
    }
    Gates();
    InitialState();
    Constant("memory.read_norm.weight", {d}, 1);
    if (spec_.block == BlockKind::kMac) Matrix("memory.recall.weight", d, d);
    if (spec_.block == BlockKind::kMal) Matrix("memory.output.weight", d, d);
  }

  void Gates() {
    const int64_t h = spec_.heads, d = spec_.width;
    Constant("memory.theta.weight", {h, d}, 0);
    Constant("memory.theta.bias", {h}, spec_.gates.theta_bias);
    if (spec_.rule.momentum) {
      Constant("memory.eta.weight", {h, d}, 0);
      Constant("memory.eta.bias", {h}, spec_.gates.eta_bias);
    }
    if (spec_.rule.forgetting != Forgetting::kNever) {
      Constant("memory.alpha.weight", {h, d}, 0);
      Add("memory.alpha.bias", {h}, {FirstValues::Kind::kLogSpacedAlpha, 0}, false);
    }
  }

  void InitialState() {
    const MemoryRule& rule = spec_.rule;
    for (int i = 0; i < rule.depth; ++i) {
      const double fan_in = static_cast<double>(rule.in_dim(i));
      // Keys have norm 1, so a first matrix of N(0, 1) gives pre-activations of order 1.
      const double unit = i == 0 ? 1 : 1 / std::sqrt(fan_in);
      Normal("memory.initial.w" + std::to_string(i), {spec_.heads, rule.out_dim(i), rule.in_dim(i)},
             spec_.unit_initial_weights ? unit : 0.1 / std::sqrt(fan_in));
    }
    for (int i = 0; rule.biases && i < rule.depth; ++i) {
      Constant("memory.initial.c" + std::to_string(i), {spec_.heads, 1, rule.out_dim(i)}, 0);
    }
    if (rule.layer_norm) {
      Constant("memory.norm.weight", {spec_.heads, 1, rule.head_dim}, 1);
      Constant("memory.norm.bias", {spec_.heads, 1, rule.head_dim}, 0);
    }
    if (rule.row_scale) Constant("memory.row_scale", {rule.chunk, 1}, 0);
  }

  void Attention() {
    const int64_t d = spec_.width;
    Matrix("attention.q.weight", d, d);
    Matrix("attention.k.weight", d, d);
    Matrix("attention.v.weight", d, d);
    if (spec_.persistent_tokens > 0) {
      Normal("attention.persistent", {spec_.persistent_tokens, d}, 1);
    }
    if (spec_.block == BlockKind::kMag) Constant("attention.norm.weight", {d}, 1);
  }

  const ModelSpec& spec_;
  int layer_ = -1;
  std::string prefix_;
};

}  // namespace

std::vector<ParameterDescription> LayOutParameters(const ModelSpec& spec) {
  Layout layout(spec);
  const int64_t d = spec.width;
  layout.Normal("embedding.weight", {spec.vocabulary, d},
                spec.tied_embeddings ? 1 / std::sqrt(static_cast<double>(d)) : 1);
  for (int layer = 0; layer < spec.layers; ++layer) layout.Layer(layer);
  layout.Constant("final_norm.weight", {d}, 1);
  if (!spec.tied_embeddings) layout.Matrix("head.weight", spec.vocabulary, d);
  return std::move(layout.list);
}

}  // namespace mnemo
