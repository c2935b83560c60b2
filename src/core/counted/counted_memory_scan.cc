#include "src/core/counted/counted_kernels.h"
#include "src/core/counting_backend.h"
#include "src/core/cuda/layout.h"
#include "src/core/cuda/memory_scan_op.h"

// Follows cuda/memory_scan_op.cc.
namespace mnemo {
namespace {

using Tensors = std::vector<Tensor>;
using List = std::span<const Tensor>;

// Workspaces are taken with room to begin at such a multiple.
constexpr int64_t kAlignment = 1024;

MemoryScanShape ShapeOf(const MemoryScanInputs& inputs, const MemoryScanAttributes& attributes) {
  MemoryScanShape shape = cuda::MemoryScanShapeOf(attributes.rule, inputs.tokens.q.value());
  shape.resets = attributes.resets.defined();
  return shape;
}

MemoryScanInputs Unpack(List list, const MemoryScanAttributes& attributes) {
  MemoryScanInputs inputs;
  size_t next = 0;
  ForEachVar(attributes.rule, inputs, [&](Var& x) { x = Var(list[next++]); });
  return inputs;
}

Var EmptyLike(const Var& x) {
  return Var(x.defined() ? Tensor::Empty(x.shape(), x.dtype(), x.device()) : Tensor());
}

Tensor EmptyPerHeadLike(const Tensor& x) {
  return cuda::EmptyPerHead(x.dim(0), x.dim(1), x.dim(2), x.dim(3), x.dtype(), x.device());
}

// What is held while a call runs: copies of what the kernels cannot read where it lies.
struct Copies {
  Tensors all;

  void PerHead(const Var& x) {
    if (!cuda::IsPerHead(x.value())) all.push_back(EmptyPerHeadLike(x.value()));
  }
  void TokenMajor(const Var& gate) {
    const int order[] = {0, 2, 1, 3};
    if (gate.defined()) all.push_back(gate.value().Permute(order).Contiguous());
  }
  void Dense(const Var& x) {
    if (x.defined()) all.push_back(x.value().Contiguous());
  }
  void Tokens(const MemoryTokens& tokens) {
    PerHead(tokens.q);
    PerHead(tokens.k);
    PerHead(tokens.v);
    TokenMajor(tokens.theta);
    TokenMajor(tokens.eta);
    TokenMajor(tokens.alpha);
  }
  // W_0 and the flags, of rules with options.
  void Options(const MemoryScanShape& shape, const MemoryScanInputs& inputs,
               const MemoryScanAttributes& attributes) {
    if (shape.plain()) return;
    for (const Var& w : inputs.parameters.initial.w) Dense(w);
    if (shape.resets) all.push_back(attributes.resets.Contiguous());
  }
  void Carry(const MemoryState& state) {
    for (const Var& w : state.w.w) Dense(w);
    for (const Var& s : state.s.w) Dense(s);
  }
};

void EmptyCarry(const MemoryState& like, MemoryState& state) {
  for (const Var& w : like.w.w) state.w.w.push_back(EmptyLike(w));
  for (const Var& s : like.s.w) state.s.w.push_back(EmptyLike(s));
}

Tensors Forward(List list, const MemoryScanAttributes& attributes, Tensors* saved) {
  const MemoryScanInputs inputs = Unpack(list, attributes);
  const Tensor& q = inputs.tokens.q.value();
  const MemoryScanShape shape = ShapeOf(inputs, attributes);
  Copies copies;
  copies.Tokens(inputs.tokens);
  copies.Options(shape, inputs, attributes);
  copies.Carry(inputs.state);
  MemoryScanResult result;
  EmptyCarry(inputs.state, result.state);
  result.y = Var(EmptyPerHeadLike(q));
  if (shape.clamp > 0) result.clamp_hits = Tensor::Empty({}, DType::kF32, q.device());
  CountedScratch scratch(q.device());
  scratch.Take(static_cast<int64_t>(MemoryScanForwardWorkspace(shape)) + kAlignment);
  if (saved != nullptr) {
    const auto floats = static_cast<int64_t>(MemoryScanCheckpointBytes(shape) / sizeof(float));
    saved->push_back(Tensor::Empty({floats}, DType::kF32, q.device()));
  }
  Tensors outputs;
  ForEachVar(attributes.rule, result, [&](Var& x) { outputs.push_back(x.value()); });
  return outputs;
}

Tensors Backward(List list, const MemoryScanAttributes& attributes, List, List output_gradients,
                 const std::vector<bool>&) {
  const MemoryScanInputs inputs = Unpack(list, attributes);
  const Tensor& q = inputs.tokens.q.value();
  MemoryScanResult adjoint;
  size_t next = 0;
  ForEachVar(attributes.rule, adjoint, [&](Var& x) { x = Var(output_gradients[next++]); });
  const MemoryScanShape shape = ShapeOf(inputs, attributes);
  Copies copies;
  copies.Tokens(inputs.tokens);
  copies.Options(shape, inputs, attributes);
  copies.PerHead(adjoint.y);
  copies.Carry(adjoint.state);
  MemoryScanInputs gradients;
  EmptyCarry(inputs.state, gradients.state);
  gradients.tokens.q = Var(EmptyPerHeadLike(q));
  gradients.tokens.k = Var(EmptyPerHeadLike(q));
  gradients.tokens.v = Var(EmptyPerHeadLike(q));
  gradients.tokens.theta = EmptyLike(inputs.tokens.theta);
  gradients.tokens.eta = EmptyLike(inputs.tokens.eta);
  gradients.tokens.alpha = EmptyLike(inputs.tokens.alpha);
  if (!shape.plain()) {
    for (const Var& w : inputs.parameters.initial.w) {
      gradients.parameters.initial.w.push_back(EmptyLike(w));
    }
  }
  gradients.parameters.norm_weight = EmptyLike(inputs.parameters.norm_weight);
  gradients.parameters.norm_bias = EmptyLike(inputs.parameters.norm_bias);
  CountedScratch scratch(q.device());
  scratch.Take(static_cast<int64_t>(MemoryScanBackwardWorkspace(shape)) + kAlignment);
  Tensors results;
  ForEachVar(attributes.rule, gradients, [&](Var& x) { results.push_back(x.value()); });
  return results;
}

}  // namespace

void RegisterCountedMemoryScan() {
  MemoryScanOp().Register(
      kCountingGpuType,
      {.accepts = cuda::AcceptsMemoryScan, .forward = Forward, .backward = Backward});
}

}  // namespace mnemo
