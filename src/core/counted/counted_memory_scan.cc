#include "src/core/counted/counted_kernels.h"
#include "src/core/counting_backend.h"
#include "src/core/cuda/layout.h"
#include "src/core/cuda/memory_scan_op.h"
#include "src/core/cuda/memory_scan_pieces.h"

// Follows cuda/memory_scan_op.cc.
namespace mnemo {
namespace {

using cuda::MemoryScanPiece;
using Tensors = std::vector<Tensor>;
using List = std::span<const Tensor>;

// Workspaces are taken with room to begin at such a multiple.
constexpr int64_t kAlignment = 1024;

MemoryScanShape ShapeOf(const MemoryScanPiece& piece) {
  MemoryScanShape shape = cuda::MemoryScanShapeOf(piece.rule, piece.inputs.tokens.q.value());
  shape.resets = piece.resets.defined();
  return shape;
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
  // W_0 and its biases, the flags and the row scale, of rules with options.
  void Options(const MemoryScanShape& shape, const MemoryScanPiece& piece) {
    if (shape.plain()) return;
    for (const Var& w : piece.inputs.parameters.initial.w) Dense(w);
    for (const Var& c : piece.inputs.parameters.initial.c) Dense(c);
    Dense(piece.inputs.parameters.row_scale);
    if (shape.resets) all.push_back(piece.resets.Contiguous());
  }
  void Carry(const MemoryState& state) {
    for (const Var& w : state.w.w) Dense(w);
    for (const Var& s : state.s.w) Dense(s);
    for (const Var& c : state.w.c) Dense(c);
    for (const Var& t : state.s.c) Dense(t);
  }
};

void EmptyCarry(const MemoryState& like, MemoryState& state) {
  for (const Var& w : like.w.w) state.w.w.push_back(EmptyLike(w));
  for (const Var& s : like.s.w) state.s.w.push_back(EmptyLike(s));
  for (const Var& c : like.w.c) state.w.c.push_back(EmptyLike(c));
  for (const Var& t : like.s.c) state.s.c.push_back(EmptyLike(t));
}

MemoryScanResult Forward(const MemoryScanPiece& piece, const Tensor&, Tensor* saved) {
  const MemoryScanInputs& inputs = piece.inputs;
  const Device device = inputs.tokens.q.device();
  const MemoryScanShape shape = ShapeOf(piece);
  Copies copies;
  copies.Tokens(inputs.tokens);
  copies.Options(shape, piece);
  copies.Carry(inputs.state);
  MemoryScanResult result;
  EmptyCarry(inputs.state, result.state);
  if (shape.clamp > 0) result.clamp_hits = Tensor::Empty({}, DType::kF32, device);
  CountedScratch scratch(device);
  if (saved != nullptr) *saved = cuda::MemoryScanSaved::Empty(shape, device);
  const bool retained = saved != nullptr && cuda::MemoryScanSaved(*saved).is_retained();
  scratch.Take(static_cast<int64_t>(MemoryScanForwardWorkspace(shape, retained)) + kAlignment);
  return result;
}

void Backward(const MemoryScanPiece& piece, const Tensor& saved, const Tensor& dy,
              const MemoryState& dstate, MemoryScanInputs& gradients) {
  const MemoryScanInputs& inputs = piece.inputs;
  const MemoryScanShape shape = ShapeOf(piece);
  Copies copies;
  copies.Tokens(inputs.tokens);
  copies.Options(shape, piece);
  copies.PerHead(Var(dy));
  copies.Carry(dstate);
  EmptyCarry(inputs.state, gradients.state);
  gradients.tokens.theta = EmptyLike(inputs.tokens.theta);
  gradients.tokens.eta = EmptyLike(inputs.tokens.eta);
  gradients.tokens.alpha = EmptyLike(inputs.tokens.alpha);
  if (!shape.plain()) {
    for (const Var& w : inputs.parameters.initial.w) {
      gradients.parameters.initial.w.push_back(EmptyLike(w));
    }
    for (const Var& c : inputs.parameters.initial.c) {
      gradients.parameters.initial.c.push_back(EmptyLike(c));
    }
    gradients.parameters.row_scale = EmptyLike(inputs.parameters.row_scale);
  }
  gradients.parameters.norm_weight = EmptyLike(inputs.parameters.norm_weight);
  gradients.parameters.norm_bias = EmptyLike(inputs.parameters.norm_bias);
  CountedScratch scratch(inputs.tokens.q.device());
  const bool retained = cuda::MemoryScanSaved(saved).is_retained();
  scratch.Take(static_cast<int64_t>(MemoryScanBackwardWorkspace(shape, retained)) + kAlignment);
}

}  // namespace

void RegisterCountedMemoryScan() {
  static const cuda::MemoryScanKernel kernel{Forward, Backward};
  MemoryScanOp().Register(
      kCountingGpuType,
      {.accepts = cuda::AcceptsMemoryScan,
       .forward =
           [](List inputs, const MemoryScanAttributes& attributes, Tensors* saved) {
             return cuda::ScanForward(kernel, inputs, attributes, saved);
           },
       .backward =
           [](List inputs, const MemoryScanAttributes& attributes, List saved,
              List output_gradients, const std::vector<bool>&) {
             return cuda::ScanBackward(kernel, inputs, attributes, saved, output_gradients);
           }});
}

}  // namespace mnemo
