#include "src/core/cuda/memory_scan_op.h"

#include "src/core/backend.h"
#include "src/core/cuda/cuda_backend.h"
#include "src/core/cuda/layout.h"
#include "src/core/cuda/memory_scan_pieces.h"

namespace mnemo::cuda {
namespace {

Tensor EmptyLike(const Tensor& x) { return Tensor::Empty(x.shape(), x.dtype(), x.device()); }

Tensor EmptyPerHeadLike(const Tensor& x) {
  return EmptyPerHead(x.dim(0), x.dim(1), x.dim(2), x.dim(3), x.dtype(), x.device());
}

// Itself where the kernels can read it.
Tensor Readable(const Tensor& x) {
  if (IsPerHead(x)) return x;
  const Tensor copy = EmptyPerHeadLike(x);
  Backend::For(x.device()).Copy(x, copy);
  return copy;
}

MemoryScanRows Rows(const Tensor& x) { return {x.raw(), x.strides()[0], x.strides()[2]}; }

// Gates [B, H, T, 1] as [B, T, H], dense; undefined where the rule has none.
Tensor TokenMajor(const Var& gate) {
  const int order[] = {0, 2, 1, 3};
  return gate.defined() ? gate.value().Permute(order).Contiguous() : Tensor();
}

float* Floats(const Tensor& x) { return x.defined() ? x.data<float>() : nullptr; }

struct GateTensors {
  Tensor theta, eta, alpha;  // [B, T, H, 1]
  MemoryScanGates pointers() const { return {Floats(theta), Floats(eta), Floats(alpha)}; }
};

GateTensors GatesOf(const MemoryTokens& tokens) {
  return {TokenMajor(tokens.theta), TokenMajor(tokens.eta), TokenMajor(tokens.alpha)};
}

// Weights, biases and their momenta as the kernels take them; empty lists give null pointers.
struct CarryTensors {
  std::vector<Tensor> w, s, c, t;

  MemoryScanCarry pointers() const {
    MemoryScanCarry carry;
    carry.w1 = Floats(w[0]);
    carry.w2 = w.size() > 1 ? Floats(w[1]) : nullptr;
    carry.s1 = s.empty() ? nullptr : Floats(s[0]);
    carry.s2 = s.size() > 1 ? Floats(s[1]) : nullptr;
    carry.c1 = c.empty() ? nullptr : Floats(c[0]);
    carry.c2 = c.size() > 1 ? Floats(c[1]) : nullptr;
    carry.t1 = t.empty() ? nullptr : Floats(t[0]);
    carry.t2 = t.size() > 1 ? Floats(t[1]) : nullptr;
    return carry;
  }
};

CarryTensors ReadCarry(const MemoryState& state) {
  CarryTensors carry;
  for (const Var& w : state.w.w) carry.w.push_back(w.value().Contiguous());
  for (const Var& s : state.s.w) carry.s.push_back(s.value().Contiguous());
  for (const Var& c : state.w.c) carry.c.push_back(c.value().Contiguous());
  for (const Var& t : state.s.c) carry.t.push_back(t.value().Contiguous());
  return carry;
}

CarryTensors EmptyCarry(const MemoryState& like) {
  CarryTensors carry;
  for (const Var& w : like.w.w) carry.w.push_back(EmptyLike(w.value()));
  for (const Var& s : like.s.w) carry.s.push_back(EmptyLike(s.value()));
  for (const Var& c : like.w.c) carry.c.push_back(EmptyLike(c.value()));
  for (const Var& t : like.s.c) carry.t.push_back(EmptyLike(t.value()));
  return carry;
}

void Put(const CarryTensors& carry, MemoryState& state) {
  for (const Tensor& w : carry.w) state.w.w.emplace_back(w);
  for (const Tensor& s : carry.s) state.s.w.emplace_back(s);
  for (const Tensor& c : carry.c) state.w.c.emplace_back(c);
  for (const Tensor& t : carry.t) state.s.c.emplace_back(t);
}

const float* NormPointer(const Var& x, Tensor& kept) {
  if (!x.defined()) return nullptr;
  kept = x.value().Contiguous();
  return kept.data<float>();
}

// What rules with options take besides, dense: W_0 and its biases, the flags, the row scale.
struct OptionTensors {
  std::vector<Tensor> initial, biases;
  Tensor resets, row_scale;
  MemoryScanInitial pointers() const {
    if (initial.empty()) return {};
    return {Floats(initial[0]), initial.size() > 1 ? Floats(initial[1]) : nullptr,
            biases.empty() ? nullptr : Floats(biases[0]),
            biases.size() > 1 ? Floats(biases[1]) : nullptr};
  }
};

OptionTensors OptionsOf(const MemoryScanShape& shape, const MemoryScanPiece& piece) {
  OptionTensors options;
  if (shape.plain()) return options;
  for (const Var& w : piece.inputs.parameters.initial.w) {
    options.initial.push_back(w.value().Contiguous());
  }
  for (const Var& c : piece.inputs.parameters.initial.c) {
    options.biases.push_back(c.value().Contiguous());
  }
  if (shape.resets) options.resets = piece.resets.Contiguous();
  if (shape.row_scale) options.row_scale = piece.inputs.parameters.row_scale.value().Contiguous();
  return options;
}

void Check(const char* message, const char* what) {
  if (message != nullptr) throw TensorError(Internal("{} on the GPU failed: {}", what, message));
}

// Workspaces begin at multiples of 1,024 bytes.
void* Workspace(const Launch& launch, size_t bytes) {
  constexpr uintptr_t kAlignment = 1024;
  const auto address =
      reinterpret_cast<uintptr_t>(launch.scratch.Take(static_cast<int64_t>(bytes + kAlignment)));
  return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

MemoryScanResult Forward(const MemoryScanPiece& piece, const Tensor& y, Tensor* saved) {
  const MemoryScanInputs& inputs = piece.inputs;
  const Tensor q = Readable(inputs.tokens.q.value()), k = Readable(inputs.tokens.k.value()),
               v = Readable(inputs.tokens.v.value());
  const GateTensors gates = GatesOf(inputs.tokens);
  const CarryTensors carry_in = ReadCarry(inputs.state), carry_out = EmptyCarry(inputs.state);
  auto& device = static_cast<CudaDevice&>(Backend::For(q.device()));
  CudaScratch scratch(device);
  Tensor gain, bias;
  MemoryScanForwardArgs args;
  args.shape = MemoryScanShapeOf(piece.rule, q);
  args.q = Rows(q);
  args.k = Rows(k);
  args.v = Rows(v);
  args.gates = gates.pointers();
  args.norm_gain = NormPointer(inputs.parameters.norm_weight, gain);
  args.norm_bias = NormPointer(inputs.parameters.norm_bias, bias);
  args.shape.resets = piece.resets.defined();
  const OptionTensors options = OptionsOf(args.shape, piece);
  args.initial = options.pointers();
  args.resets = Floats(options.resets);
  args.row_scale = Floats(options.row_scale);
  args.carry_in = carry_in.pointers();
  args.y = Rows(y);
  args.carry_out = carry_out.pointers();
  args.side_stream = device.stream_behind();
  if (saved != nullptr) {
    *saved = MemoryScanSaved::Empty(args.shape, q.device());
    args.checkpoints = MemoryScanSaved(*saved).checkpoints();
    args.retained = MemoryScanSaved(*saved).retained();
  }
  args.workspace =
      Workspace(scratch.launch(), MemoryScanForwardWorkspace(args.shape, args.retained != nullptr));
  MemoryScanResult result;
  if (args.shape.clamp > 0) {
    result.clamp_hits = Tensor::Empty({}, DType::kF32, q.device());
    args.clamp_hits = result.clamp_hits.data<float>();
  }
  Check(MemoryScanForward(args, scratch.launch().stream), "the memory scan");
  Put(carry_out, result.state);
  return result;
}

void Backward(const MemoryScanPiece& piece, const Tensor& saved, const Tensor& dy_as_it_lies,
              const MemoryState& dstate, MemoryScanInputs& gradients) {
  const MemoryScanInputs& inputs = piece.inputs;
  const Tensor q = Readable(inputs.tokens.q.value()), k = Readable(inputs.tokens.k.value()),
               v = Readable(inputs.tokens.v.value());
  const GateTensors gates = GatesOf(inputs.tokens);
  const Tensor dy = Readable(dy_as_it_lies);
  const CarryTensors dcarry_out = ReadCarry(dstate), dcarry_in = EmptyCarry(inputs.state);
  const auto empty = [](const Tensor& x) { return x.defined() ? EmptyLike(x) : x; };
  const GateTensors dgates{empty(gates.theta), empty(gates.eta), empty(gates.alpha)};
  Tensor gain, bias, dgain, dbias;
  auto& device = static_cast<CudaDevice&>(Backend::For(q.device()));
  CudaScratch scratch(device);
  MemoryScanBackwardArgs args;
  args.shape = MemoryScanShapeOf(piece.rule, q);
  args.q = Rows(q);
  args.k = Rows(k);
  args.v = Rows(v);
  args.gates = gates.pointers();
  args.norm_gain = NormPointer(inputs.parameters.norm_weight, gain);
  args.norm_bias = NormPointer(inputs.parameters.norm_bias, bias);
  args.shape.resets = piece.resets.defined();
  const OptionTensors options = OptionsOf(args.shape, piece);
  args.initial = options.pointers();
  args.resets = Floats(options.resets);
  args.row_scale = Floats(options.row_scale);
  OptionTensors doptions;
  for (const Tensor& w : options.initial) doptions.initial.push_back(EmptyLike(w));
  for (const Tensor& c : options.biases) doptions.biases.push_back(EmptyLike(c));
  doptions.row_scale = empty(options.row_scale);
  args.dinitial = doptions.pointers();
  args.drow_scale = Floats(doptions.row_scale);
  args.checkpoints = MemoryScanSaved(saved).checkpoints();
  args.retained = MemoryScanSaved(saved).retained();
  args.dy = Rows(dy);
  args.dcarry_out = dcarry_out.pointers();
  args.dq = Rows(gradients.tokens.q.value());
  args.dk = Rows(gradients.tokens.k.value());
  args.dv = Rows(gradients.tokens.v.value());
  args.dgates = dgates.pointers();
  if (gain.defined()) {
    dgain = EmptyLike(gain);
    dbias = EmptyLike(bias);
    args.dnorm_gain = dgain.data<float>();
    args.dnorm_bias = dbias.data<float>();
  }
  args.dcarry_in = dcarry_in.pointers();
  args.workspace = Workspace(scratch.launch(),
                             MemoryScanBackwardWorkspace(args.shape, args.retained != nullptr));
  args.side_streams[0] = device.stream_beside();
  args.side_streams[1] = device.stream_behind();
  Check(MemoryScanBackward(args, scratch.launch().stream), "the memory scan's backward pass");

  const int order[] = {0, 2, 1, 3};
  const auto head_major = [&](const Tensor& x) {
    return x.defined() ? Var(x.Permute(order)) : Var();
  };
  gradients.tokens.theta = head_major(dgates.theta);
  gradients.tokens.eta = head_major(dgates.eta);
  gradients.tokens.alpha = head_major(dgates.alpha);
  for (const Tensor& w : doptions.initial) gradients.parameters.initial.w.emplace_back(w);
  for (const Tensor& c : doptions.biases) gradients.parameters.initial.c.emplace_back(c);
  gradients.parameters.row_scale = Var(doptions.row_scale);
  gradients.parameters.norm_weight = Var(dgain);
  gradients.parameters.norm_bias = Var(dbias);
  Put(dcarry_in, gradients.state);
}

}  // namespace

void RegisterMemoryScan() {
  static const MemoryScanKernel kernel{Forward, Backward};
  MemoryScanOp().Register(
      DeviceType::kCuda,
      {.accepts = AcceptsMemoryScan,
       .forward =
           [](std::span<const Tensor> inputs, const MemoryScanAttributes& attributes,
              std::vector<Tensor>* saved) {
             return ScanForward(kernel, inputs, attributes, saved);
           },
       .backward =
           [](std::span<const Tensor> inputs, const MemoryScanAttributes& attributes,
              std::span<const Tensor> saved, std::span<const Tensor> output_gradients,
              const std::vector<bool>&) {
             return ScanBackward(kernel, inputs, attributes, saved, output_gradients);
           }});
}

}  // namespace mnemo::cuda
