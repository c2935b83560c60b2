#include "src/job/op_timer.h"

#include <fmt/format.h>

#include <utility>

#include "src/core/backend.h"
#include "src/core/fused_op.h"
#include "src/job/timing.h"

namespace mnemo {
namespace {

constexpr int64_t kDifferent = 1 << 20;

int64_t ComposedCalls() {
  int64_t calls = 0;
  for (const auto& [name, count] : FusedCounts()) calls += count.composed + count.fallback;
  return calls;
}

std::vector<Var> LeavesOn(Tape& tape, const std::vector<OpTimer::Input>& inputs,
                          const std::vector<Tensor>& sums) {
  std::vector<Var> leaves;
  for (size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(inputs[i].weight ? tape.Leaf(inputs[i].value, sums[i])
                                      : tape.Leaf(inputs[i].value));
  }
  return leaves;
}

}  // namespace

double BytesOf(const std::vector<Tensor>& tensors) {
  double bytes = 0;
  for (const Tensor& x : tensors) bytes += static_cast<double>(x.bytes());
  return bytes;
}

OpTimer::OpTimer(Device device, std::string model, const ReportOp& report)
    : device_(device), model_(std::move(model)), report_(report) {}

Tensor OpTimer::Random(const Shape& shape, DType dtype, double deviation) {
  Tensor& values = values_[dtype];
  if (!values.defined()) {
    values = RandomTensor({1, kDifferent}, DType::kF32).To(device_).To(dtype);
  }
  const int64_t count = ElementCount(shape), rows = (count + kDifferent - 1) / kDifferent;
  const Tensor repeated =
      rows == 1 ? values.Clone() : values.BroadcastTo({rows, kDifferent}).Contiguous();
  const Tensor result = repeated.View({rows * kDifferent}).Slice(0, 0, count).View(shape);
  if (deviation != 1) Backend::For(device_).Affine(result, deviation, 0, result);
  return result;
}

Tensor OpTimer::Empty(const Shape& shape, DType dtype) const {
  return Tensor::Empty(shape, dtype, device_);
}

std::vector<Tensor> OpTimer::SumsOf(const std::vector<Input>& inputs) const {
  std::vector<Tensor> sums;
  for (const Input& input : inputs) {
    sums.push_back(input.weight ? Tensor::Zeros(input.value.shape(), DType::kF32, device_)
                                : Tensor());
  }
  return sums;
}

// As it comes back in training: heads lie within tokens.
Tensor OpTimer::GradientLike(const Tensor& x) {
  if (x.rank() != 4) return Random(x.shape(), x.dtype(), 1e-3);
  const int heads_out[] = {0, 2, 1, 3};
  return Random({x.dim(0), x.dim(2), x.dim(1), x.dim(3)}, x.dtype(), 1e-3).Permute(heads_out);
}

void OpTimer::Time(OpTime op, const OpWork& work, const std::function<void()>& call) {
  op.model = model_;
  op.flops = work.flops;
  op.bytes = work.bytes;
  op.seconds = MedianCall(call, [this] { WaitFor(device_); });
  report_(op);
}

void OpTimer::Primitive(const std::string& name, const Shape& shape, const OpWork& work,
                        const std::function<void()>& call) {
  Time({.name = name, .shape = ToString(shape), .kind = OpKind::kPrimitive}, work, call);
}

void OpTimer::Product(const std::string& name, const std::string& shapes, const OpWork& work,
                      const std::function<void()>& call) {
  Time({.name = name, .shape = shapes, .kind = OpKind::kProduct}, work, call);
}

void OpTimer::Fused(const std::string& name, const std::string& shapes,
                    const std::vector<Input>& inputs, const OpWork& forward, const OpWork& backward,
                    const FusedCall& call) {
  const std::vector<Tensor> sums = SumsOf(inputs);
  Tape tape;
  const std::vector<Var> leaves = LeavesOn(tape, inputs, sums);
  const int64_t composed_before = ComposedCalls();
  const Var output = call(leaves);
  OpTime op{.name = name + ", forward",
            .shape = shapes,
            .kind = OpKind::kFusedForward,
            .composed = ComposedCalls() > composed_before};
  Time(op, forward, [&] {
    Tape once;
    (void)call(LeavesOn(once, inputs, sums));
  });
  op.name = name + ", backward";
  op.kind = OpKind::kFusedBackward;
  const Tensor gradient = GradientLike(output.value());
  Time(op, backward, [&] {
    (void)tape.Gradient({&output, 1}, {&gradient, 1}, leaves, /*retain=*/true);
  });
}

void OpTimer::FusedAtOnce(const std::string& name, const std::string& shapes,
                          const std::vector<Input>& inputs, const OpWork& work,
                          const FusedCall& call) {
  const std::vector<Tensor> sums = SumsOf(inputs);
  Tensor gradient;
  const auto run = [&] {
    const BackwardFollows follows;
    Tape tape;
    const std::vector<Var> leaves = LeavesOn(tape, inputs, sums);
    const Var output = call(leaves);
    if (!gradient.defined()) gradient = GradientLike(output.value());
    (void)tape.Gradient({&output, 1}, {&gradient, 1}, leaves);
  };
  const int64_t composed_before = ComposedCalls();
  run();
  Time({.name = name + ", forward and backward at once",
        .shape = shapes,
        .kind = OpKind::kFusedBackward,
        .composed = ComposedCalls() > composed_before},
       work, run);
}

void OpTimer::FusedWithGradients(const std::string& name, const std::string& shapes,
                                 const OpWork& work, const std::function<void()>& call) {
  const int64_t composed_before = ComposedCalls();
  call();
  Time({.name = name + ", with gradients",
        .shape = shapes,
        .kind = OpKind::kFusedBackward,
        .composed = ComposedCalls() > composed_before},
       work, call);
}

void BenchModelOps(const ModelOpShapes& shapes, Device device, const ReportOp& report) {
  OpTimer timer(device, shapes.name, report);
  BenchModelProducts(shapes, timer);
  BenchFusedOps(shapes, timer);
  BenchModelPrimitives(shapes, timer);
}

std::vector<ModelOpShapes> LargeModelOpShapes() {
  ModelOpShapes small{.name = "375M",
                      .batch = 8,
                      .length = 4096,
                      .width = 1024,
                      .mlp = 2816,
                      .vocabulary = 32768,
                      .heads = 16,
                      .window = 2048,
                      .memory_dim = 64,
                      .memory_hidden = 256,
                      .chunk = 64,
                      .vocabulary_tile = 8192};
  ModelOpShapes large = small;
  large.name = "1.36B", large.batch = 4, large.width = 2048, large.mlp = 5632;
  return {small, large};
}

}  // namespace mnemo
