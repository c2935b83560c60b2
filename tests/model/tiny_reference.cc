// A tiny model's parameters in the structures of tests/reference.
#include "tests/model/tiny_model.h"

namespace mnemo::testing {
namespace {

// One layer's parameters by name, empty where the model has none.
class LayerReader {
 public:
  LayerReader(const ParameterSet& parameters, int layer)
      : parameters_(parameters), prefix_("layers." + std::to_string(layer) + ".") {}

  reference::Vector Vector(const std::string& name) const {
    const int i = parameters_.Find(prefix_ + name);
    return i < 0 ? reference::Vector{} : parameters_[i].ToDoubles();
  }

  reference::Matrix Matrix(const std::string& name) const {
    const int i = parameters_.Find(prefix_ + name);
    return i < 0 ? reference::Matrix() : ToMatrix(parameters_[i]);
  }

  // Head h of a [H, rows, columns] parameter.
  reference::Matrix Head(const std::string& name, int64_t h) const {
    const Tensor& all = parameters_.Get(prefix_ + name);
    return ToMatrix(all.Slice(0, h, h + 1).Reshape({all.dim(1), all.dim(2)}));
  }

  static reference::Matrix ToMatrix(const Tensor& x) {
    reference::Matrix m(static_cast<int>(x.dim(0)), static_cast<int>(x.dim(1)));
    m.data = x.ToDoubles();
    return m;
  }

 private:
  const ParameterSet& parameters_;
  std::string prefix_;
};

reference::MemoryHead ReadHead(const ModelSpec& spec, const LayerReader& layer, int64_t h) {
  reference::MemoryHead head;
  for (int i = 0; i < spec.rule.depth; ++i) {
    head.initial.w.push_back(layer.Head("memory.initial.w" + std::to_string(i), h));
    if (!spec.rule.biases) continue;
    const reference::Matrix row = layer.Head("memory.initial.c" + std::to_string(i), h);
    reference::Matrix column(row.cols, 1);
    column.data = row.data;
    head.initial.c.push_back(column);
  }
  if (spec.rule.layer_norm) {
    head.ln_gain = layer.Head("memory.norm.weight", h).data;
    head.ln_bias = layer.Head("memory.norm.bias", h).data;
  }
  head.row_scale = layer.Vector("memory.row_scale");
  return head;
}

reference::BlockOptions Options(const ModelSpec& spec) {
  reference::BlockOptions options;
  options.kind = static_cast<reference::BlockKind>(spec.block);  // same order
  options.heads = static_cast<int>(spec.heads);
  const MemoryRule& rule = spec.rule;
  options.rule.chunk = static_cast<int>(rule.chunk);
  options.rule.activation = rule.activation == MemoryActivation::kSilu
                                ? reference::Activation::kSilu
                                : reference::Activation::kGelu;
  options.rule.residual = rule.residual;
  options.rule.layer_norm = rule.layer_norm;
  options.rule.momentum = rule.momentum;
  options.rule.forgetting = rule.forgetting == Forgetting::kNever ? reference::Forgetting::kOff
                            : rule.forgetting == Forgetting::kTowardsZero
                                ? reference::Forgetting::kZero
                                : reference::Forgetting::kInitial;
  options.rule.clamp = rule.clamp;
  options.rule.epsilon = rule.epsilon;
  options.theta_max = spec.gates.theta_max;
  options.eta_max = spec.gates.eta_max;
  options.alpha_max = spec.gates.alpha_max;
  options.ema = spec.gates.average_surprise;
  options.qk_l2_norm = spec.normalize_qk;
  options.gelu_output_gate = spec.output_gate == MemoryActivation::kGelu;
  options.segment = static_cast<int>(spec.segment);
  options.window = static_cast<int>(spec.window);
  options.rope_base = spec.rope_base;
  options.epsilon = spec.epsilon;
  return options;
}

reference::BlockWeights Weights(const ModelSpec& spec, const LayerReader& layer) {
  reference::BlockWeights w;
  w.mixer_norm = layer.Vector("mixer_norm.weight");
  w.wo = layer.Matrix("output.weight");
  w.wq = layer.Matrix("memory.q.weight");
  w.wk = layer.Matrix("memory.k.weight");
  w.wv = layer.Matrix("memory.v.weight");
  w.conv_q = layer.Matrix("memory.q_conv.weight");
  w.conv_k = layer.Matrix("memory.k_conv.weight");
  w.conv_v = layer.Matrix("memory.v_conv.weight");
  w.w_theta = layer.Matrix("memory.theta.weight");
  w.w_eta = layer.Matrix("memory.eta.weight");
  w.w_alpha = layer.Matrix("memory.alpha.weight");
  w.theta_bias = layer.Vector("memory.theta.bias");
  w.eta_bias = layer.Vector("memory.eta.bias");
  w.alpha_bias = layer.Vector("memory.alpha.bias");
  if (spec.has_memory()) {
    for (int64_t h = 0; h < spec.heads; ++h) w.memory.push_back(ReadHead(spec, layer, h));
  }
  w.read_norm = layer.Vector("memory.read_norm.weight");
  w.wg = layer.Matrix("output_gate.weight");
  w.wr = layer.Matrix("memory.recall.weight");
  w.wm = layer.Matrix("memory.output.weight");
  w.aq = layer.Matrix("attention.q.weight");
  w.ak = layer.Matrix("attention.k.weight");
  w.av = layer.Matrix("attention.v.weight");
  w.persistent = layer.Matrix("attention.persistent");
  w.attn_norm = layer.Vector("attention.norm.weight");
  w.mlp_norm = layer.Vector("mlp_norm.weight");
  w.w_gate = layer.Matrix("mlp.gate.weight");
  w.w_up = layer.Matrix("mlp.up.weight");
  w.w_down = layer.Matrix("mlp.down.weight");
  return w;
}

}  // namespace

reference::Model ToReference(const TinyModel& model) {
  reference::Model result;
  result.embedding = LayerReader::ToMatrix(model.parameters.Get("embedding.weight"));
  for (int layer = 0; layer < model.spec.layers; ++layer) {
    result.blocks.push_back(
        {Options(model.spec), Weights(model.spec, LayerReader(model.parameters, layer))});
  }
  result.final_norm = model.parameters.Get("final_norm.weight").ToDoubles();
  if (!model.spec.tied_embeddings) {
    result.head = LayerReader::ToMatrix(model.parameters.Get("head.weight"));
  }
  result.epsilon = model.spec.epsilon;
  return result;
}

}  // namespace mnemo::testing
