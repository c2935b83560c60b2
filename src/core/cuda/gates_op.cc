#include "src/core/backend.h"
#include "src/core/cuda/gates.h"

namespace mnemo::cuda {
namespace {

using Tensors = std::vector<Tensor>;
using List = std::span<const Tensor>;

GateShape ShapeOf(List inputs) {
  const Tensor &x = inputs[0], &weight = inputs[1];
  return {.gates = static_cast<int>((inputs.size() - 1) / 2),
          .batch = x.dim(0),
          .tokens = x.dim(1),
          .width = x.dim(2),
          .heads = weight.dim(0)};
}

bool Accepts(List inputs, const GateAttributes&) {
  const GateShape shape = ShapeOf(inputs);
  bool accepted = inputs[0].dtype() == DType::kBF16 && shape.width % 8 == 0 &&
                  shape.gates <= kMaxGates && shape.rows() > 0;
  for (const Tensor& weight : inputs.subspan(1)) {
    accepted = accepted && weight.dtype() == DType::kF32 && weight.dim(0) == shape.heads;
  }
  return accepted;
}

Tensor Floats(const Shape& shape, Device device) {
  return Tensor::Empty(shape, DType::kF32, device);
}

PerGate<float> MaximaOf(const GateAttributes& attributes) {
  PerGate<float> maxima{};
  for (size_t i = 0; i < attributes.maxima.size(); ++i) {
    maxima[i] = static_cast<float>(attributes.maxima[i]);
  }
  return maxima;
}

// w1, w2 and, if there are three copies, w1: [copies * columns, d].
Tensor SplitWeights(GateKernels& kernels, const GateShape& shape, List inputs, int copies) {
  const Device device = inputs[0].device();
  const Tensor out = Tensor::Empty({copies * shape.columns(), shape.width}, DType::kBF16, device);
  GateSplitCall call{.weights = {}, .copies = copies, .out = out.raw()};
  Tensors kept;
  for (int i = 0; i < shape.gates; ++i) {
    kept.push_back(inputs[1 + 2 * i].Contiguous());
    call.weights[i] = kept.back().data<float>();
  }
  kernels.Split(device, shape, call);
  return out;
}

// [B T, d].
Tensor Rows(const Tensor& x) { return x.Reshape({x.dim(0) * x.dim(1), x.dim(2)}); }

Tensors Forward(GateKernels& kernels, List inputs, const GateAttributes& attributes,
                Tensors* saved) {
  const GateShape shape = ShapeOf(inputs);
  const Device device = inputs[0].device();
  const Tensor products = Floats({shape.rows(), 2 * shape.columns()}, device);
  const Tensor weights = SplitWeights(kernels, shape, inputs, 2);
  Backend::For(device).Gemm(Rows(inputs[0]), weights.Transpose(), 1, 0, products);
  GateValuesCall call{.products = products.data<float>(),
                      .biases = {},
                      .maxima = MaximaOf(attributes),
                      .gates = {}};
  Tensors outputs, kept;
  for (int i = 0; i < shape.gates; ++i) {
    kept.push_back(inputs[2 + 2 * i].Contiguous());
    outputs.push_back(Floats({shape.batch, shape.heads, shape.tokens, 1}, device));
    call.biases[i] = kept.back().data<float>();
    call.gates[i] = outputs.back().data<float>();
  }
  kernels.Values(device, shape, call);
  if (saved != nullptr) *saved = outputs;
  return outputs;
}

struct SumGradients {
  Tensor cut;     // z1, z1, z2: [B T, 3 columns]
  Tensor biases;  // [columns]
};

SumGradients Differentiate(GateKernels& kernels, const GateShape& shape,
                           const GateAttributes& attributes, List gates, List gradients) {
  const Device device = gates[0].device();
  const SumGradients result{
      Tensor::Empty({shape.rows(), 3 * shape.columns()}, DType::kBF16, device),
      Floats({shape.columns()}, device)};
  const Tensor shares = Floats({shape.shares(), shape.columns()}, device);
  GateGradientsCall call{.gates = {},
                         .gradients = {},
                         .maxima = MaximaOf(attributes),
                         .out = result.cut.raw(),
                         .shares = shares.data<float>()};
  Tensors kept;
  for (int i = 0; i < shape.gates; ++i) {
    kept.push_back(gradients[i].Contiguous());
    call.gates[i] = gates[i].data<float>();
    call.gradients[i] = kept.back().data<float>();
  }
  kernels.Gradients(device, shape, call);
  kernels.Sum(device, shares.data<float>(), shape.shares(), shape.columns(),
              result.biases.data<float>());
  return result;
}

Tensors Backward(GateKernels& kernels, List inputs, const GateAttributes& attributes, List gates,
                 List output_gradients, const std::vector<bool>& needs, List so_far) {
  const GateShape shape = ShapeOf(inputs);
  const int64_t columns = shape.columns(), heads = shape.heads;
  Backend& backend = Backend::For(inputs[0].device());
  const Tensor x = Rows(inputs[0]);
  const SumGradients sums = Differentiate(kernels, shape, attributes, gates, output_gradients);
  Tensors result(inputs.size());
  if (needs[0]) {
    const Tensor out = Tensor::Empty(x.shape(), x.dtype(), x.device());
    const Tensor weights = SplitWeights(kernels, shape, inputs, 3);
    if (so_far[0].defined()) {
      backend.Gemm(sums.cut, weights, 1, 1, Rows(so_far[0].Contiguous()), out);
    } else {
      backend.Gemm(sums.cut, weights, 1, 0, out);
    }
    result[0] = out.Reshape(inputs[0].shape());
  }
  const Tensor halves = Floats({2 * columns, shape.width}, x.device());
  backend.Gemm(sums.cut.Slice(1, columns, 3 * columns).Transpose(), x, 1, 0, halves);
  const auto give = [&](size_t input, const Tensor& gradient) {
    if (so_far[input].defined()) {
      backend.Binary(BinaryOp::kAdd, gradient, so_far[input], gradient);
    }
    result[input] = gradient;
  };
  for (int i = 0; i < shape.gates; ++i) {
    const int64_t begin = i * heads, end = begin + heads;
    const size_t weight = 1 + 2 * static_cast<size_t>(i);
    if (needs[weight]) {
      const Tensor gradient = Floats({heads, shape.width}, x.device());
      backend.Binary(BinaryOp::kAdd, halves.Slice(0, begin, end),
                     halves.Slice(0, columns + begin, columns + end), gradient);
      give(weight, gradient);
    }
    if (needs[weight + 1]) give(weight + 1, sums.biases.Slice(0, begin, end));
  }
  return result;
}

}  // namespace

FusedOp<GateAttributes>::Kernel GatesKernel(GateKernels& kernels) {
  return {
      .accepts = Accepts,
      .forward = [&kernels](List inputs, const GateAttributes& attributes,
                            Tensors* saved) { return Forward(kernels, inputs, attributes, saved); },
      .backward = {},
      .backward_onto =
          [&kernels](List inputs, const GateAttributes& attributes, List saved, List gradients,
                     const std::vector<bool>& needs, List so_far) {
            return Backward(kernels, inputs, attributes, saved, gradients, needs, so_far);
          }};
}

}  // namespace mnemo::cuda
