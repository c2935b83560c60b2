#include "src/model/parameter_layout.h"

#include <cmath>

namespace mnemo {
namespace {

// Taps of the causal convolutions before the memory.
constexpr int64_t kConvTaps = 4;

// How tensor-parallel ranks split a tensor: by its first dim (heads, or what belongs to them; what
// the MLP is wide inside; entries of the vocabulary), or, if it is a matrix that maps one of these
// back to the width of the model, by its second.
enum class SplitBy { kNothing, kRows, kColumns };

// Collects one layer's parameters, or those outside the layers.
class Layout {
 public:
  explicit Layout(const ModelSpec& spec) : spec_(spec) {}

  // A matrix that multiplies activations: N(0, scale^2 / fan_in), decayed, narrow.
  void Matrix(const std::string& name, int64_t out, int64_t in, SplitBy split, double scale = 1) {
    const double deviation = scale / std::sqrt(static_cast<double>(in));
    Add(name, {out, in}, split, {FirstValues::Kind::kNormal, deviation}, true);
    list.back().info.narrow = true;
  }
  // Rows that stand among activations: not decayed, narrow.
  void Rows(const std::string& name, const Shape& shape, SplitBy split, double deviation) {
    Normal(name, shape, split, deviation);
    list.back().info.narrow = true;
  }
  void Constant(const std::string& name, const Shape& shape, SplitBy split, double value) {
    Add(name, shape, split, {FirstValues::Kind::kConstant, value}, false);
  }
  void Normal(const std::string& name, const Shape& shape, SplitBy split, double deviation) {
    Add(name, shape, split, {FirstValues::Kind::kNormal, deviation}, false);
  }

  void Layer(int layer) {
    layer_ = layer;
    prefix_ = "layers." + std::to_string(layer) + ".";
    const int64_t d = spec_.width;
    Constant("mixer_norm.weight", {d}, kNothing, 1);
    if (spec_.has_memory()) Memory();
    if (spec_.has_attention()) Attention();
    if (spec_.block == BlockKind::kLmm || spec_.block == BlockKind::kMal) {
      Matrix("output_gate.weight", d, d, kRows);
    }
    Matrix("output.weight", d, d, kColumns, residual_scale());
    Constant("mlp_norm.weight", {d}, kNothing, 1);
    Matrix("mlp.gate.weight", spec_.mlp_hidden, d, kRows);
    Matrix("mlp.up.weight", spec_.mlp_hidden, d, kRows);
    Matrix("mlp.down.weight", d, spec_.mlp_hidden, kColumns, residual_scale());
    layer_ = -1;
    prefix_.clear();
  }

  std::vector<ParameterDescription> list;

 private:
  using enum SplitBy;

  // What adds to the residual stream begins smaller, the more layers there are.
  double residual_scale() const { return 1 / std::sqrt(2.0 * spec_.layers); }

  // `shape` is the whole tensor's.
  void Add(const std::string& name, const Shape& shape, SplitBy split, FirstValues first,
           bool decay) {
    ParameterInfo info{prefix_ + name, shape, layer_, decay};
    if (split != kNothing && spec_.split.ranks > 1) {
      info.split = split == kRows ? 0 : 1;
      info.whole = shape[info.split];
      info.first = spec_.split.Begin(info.whole);
      info.shape[info.split] = spec_.split.Count(info.whole);
    }
    list.push_back({std::move(info), first});
  }

  void Memory() {
    const int64_t d = spec_.width;
    Matrix("memory.q.weight", d, d, kRows);
    if (!spec_.shared_qk_projection) Matrix("memory.k.weight", d, d, kRows);
    Matrix("memory.v.weight", d, d, kRows);
    for (const char* name :
         {"memory.q_conv.weight", "memory.k_conv.weight", "memory.v_conv.weight"}) {
      Normal(name, {d, kConvTaps}, kRows, 1 / std::sqrt(static_cast<double>(kConvTaps)));
    }
    Gates();
    InitialState();
    Constant("memory.read_norm.weight", {d}, kRows, 1);
    if (spec_.block == BlockKind::kMac) Matrix("memory.recall.weight", d, d, kRows);
    if (spec_.block == BlockKind::kMal) Matrix("memory.output.weight", d, d, kColumns);
  }

  void Gates() {
    const int64_t h = spec_.heads, d = spec_.width;
    Constant("memory.theta.weight", {h, d}, kRows, 0);
    Constant("memory.theta.bias", {h}, kRows, spec_.gates.theta_bias);
    if (spec_.rule.momentum) {
      Constant("memory.eta.weight", {h, d}, kRows, 0);
      Constant("memory.eta.bias", {h}, kRows, spec_.gates.eta_bias);
    }
    if (spec_.rule.forgetting != Forgetting::kNever) {
      Constant("memory.alpha.weight", {h, d}, kRows, 0);
      Add("memory.alpha.bias", {h}, kRows, {FirstValues::Kind::kLogSpacedAlpha, 0}, false);
    }
  }

  void InitialState() {
    const MemoryRule& rule = spec_.rule;
    for (int i = 0; i < rule.depth; ++i) {
      const double fan_in = static_cast<double>(rule.in_dim(i));
      // Keys have norm 1, so a first matrix of N(0, 1) gives pre-activations of order 1.
      const double unit = i == 0 ? 1 : 1 / std::sqrt(fan_in);
      Normal("memory.initial.w" + std::to_string(i), {spec_.heads, rule.out_dim(i), rule.in_dim(i)},
             kRows, spec_.unit_initial_weights ? unit : 0.1 / std::sqrt(fan_in));
    }
    for (int i = 0; rule.biases && i < rule.depth; ++i) {
      Constant("memory.initial.c" + std::to_string(i), {spec_.heads, 1, rule.out_dim(i)}, kRows, 0);
    }
    if (rule.layer_norm) {
      Constant("memory.norm.weight", {spec_.heads, 1, rule.head_dim}, kRows, 1);
      Constant("memory.norm.bias", {spec_.heads, 1, rule.head_dim}, kRows, 0);
    }
    if (rule.row_scale) Constant("memory.row_scale", {rule.chunk, 1}, kNothing, 0);
  }

  void Attention() {
    const int64_t d = spec_.width;
    Matrix("attention.q.weight", d, d, kRows);
    Matrix("attention.k.weight", d, d, kRows);
    Matrix("attention.v.weight", d, d, kRows);
    if (spec_.persistent_tokens > 0) {
      Rows("attention.persistent", {spec_.persistent_tokens, d}, kNothing, 1);
    }
    if (spec_.block == BlockKind::kMag) Constant("attention.norm.weight", {d}, kRows, 1);
  }

  const ModelSpec& spec_;
  int layer_ = -1;
  std::string prefix_;
};

}  // namespace

std::vector<ParameterDescription> LayOutParameters(const ModelSpec& spec) {
  Layout layout(spec);
  const int64_t d = spec.width;
  layout.Rows("embedding.weight", {spec.vocabulary, d}, SplitBy::kRows,
              spec.tied_embeddings ? 1 / std::sqrt(static_cast<double>(d)) : 1);
  for (int layer = 0; layer < spec.layers; ++layer) layout.Layer(layer);
  layout.Constant("final_norm.weight", {d}, SplitBy::kNothing, 1);
  if (!spec.tied_embeddings) {
    layout.Matrix("head.weight", spec.vocabulary, d, SplitBy::kRows);
  }
  return std::move(layout.list);
}

}  // namespace mnemo
