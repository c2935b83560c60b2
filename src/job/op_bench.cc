#include "src/job/op_bench.h"

#include <fmt/format.h>

#include <utility>

#include "src/core/backend.h"
#include "src/job/timing.h"

namespace mnemo {
namespace {

class OpBench {
 public:
  OpBench(DType dtype, const ReportOp& report) : dtype_(dtype), report_(report) {}

  void Run() {
    Products();
    Elementwise();
    Copies();
    Reductions();
    Structured();
  }

 private:
  Tensor Random(const Shape& shape) const { return RandomTensor(shape, dtype_); }
  Tensor Empty(const Shape& shape) const { return Tensor::Empty(shape, dtype_); }

  // `passes`: how often `x`'s bytes are read or written.
  void Bytes(const std::string& name, double passes, const Tensor& x,
             const std::function<void()>& call) const {
    OpTime op{.name = name, .seconds = FastestCall(call)};
    op.bytes = passes * static_cast<double>(x.bytes());
    report_(op);
  }

  void Gemm(const Shape& a_shape, const Shape& b_shape, bool ta, bool tb) const {
    const auto make = [&](Shape shape, bool transposed) {
      if (transposed) std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
      const Tensor x = Random(shape);
      return transposed ? x.Transpose() : x;
    };
    const Tensor a = make(a_shape, ta), b = make(b_shape, tb);
    Shape out_shape = a_shape;
    out_shape.back() = b_shape.back();
    const Tensor out = Empty(out_shape);
    const double flops =
        2.0 * static_cast<double>(a.elements()) * static_cast<double>(b_shape.back());
    OpTime op{.kind = OpKind::kProduct, .flops = flops};
    op.name = fmt::format("gemm {}{} x {}{}", a_shape, ta ? "^T" : "", b_shape, tb ? "^T" : "");
    op.bytes = static_cast<double>(a.bytes() + b.bytes() + out.bytes());
    op.seconds = FastestCall([&] { CpuBackend().Gemm(a, b, 1, 0, out); });
    report_(op);
  }

  void Products() const {
    Gemm({32, 64, 64}, {32, 64, 256}, false, false);
    Gemm({32, 64, 256}, {32, 256, 64}, false, false);
    Gemm({32, 64, 64}, {32, 64, 64}, false, true);
    Gemm({32, 256, 64}, {32, 64, 64}, true, false);
    Gemm({32, 64, 64}, {32, 64, 256}, true, false);
    Gemm({32, 64, 256}, {32, 256, 64}, false, true);
    Gemm({32, 1, 64}, {32, 64, 256}, false, false);
    Gemm({32, 16, 16}, {32, 16, 64}, false, false);
    Gemm({512, 512}, {512, 512}, false, false);
    Gemm({2048, 512}, {512, 1536}, false, false);
    Gemm({2048, 512}, {512, 1536}, false, true);
    Gemm({512, 2048}, {2048, 1536}, true, false);
  }

  void Elementwise() const {
    const Tensor x = Random({32, 64, 256}), y = Random(x.shape()), out = Empty(x.shape());
    const std::pair<const char*, UnaryOp> ops[] = {{"exp", UnaryOp::kExp},
                                                   {"log", UnaryOp::kLog},
                                                   {"relu", UnaryOp::kRelu},
                                                   {"sigmoid", UnaryOp::kSigmoid},
                                                   {"tanh", UnaryOp::kTanh},
                                                   {"silu", UnaryOp::kSilu},
                                                   {"silu_grad", UnaryOp::kSiluGrad},
                                                   {"gelu", UnaryOp::kGelu},
                                                   {"gelu_grad2", UnaryOp::kGeluGrad2}};
    for (const auto& [name, op] : ops) {
      const UnaryOp which = op;
      Bytes(fmt::format("{} [32, 64, 256]", name), 2, x,
            [&, which] { CpuBackend().Unary(which, x, out); });
    }
    const auto multiply = [&](const char* name, double passes, const Tensor& other) {
      Bytes(name, passes, x, [&] { CpuBackend().Binary(BinaryOp::kMul, x, other, out); });
    };
    multiply("mul [32, 64, 256]", 3, y);
    multiply("mul by a row", 2, Random({32, 1, 256}).BroadcastTo(x.shape()));
    multiply("mul by a column", 2, Random({32, 64, 1}).BroadcastTo(x.shape()));
    for (const Shape& shape : {Shape{32, 64, 64}, Shape{64}}) {
      const Tensor a = Random(shape), sum = Empty(shape);
      Bytes(fmt::format("add {}", ToString(shape)), 3, a,
            [&] { CpuBackend().Binary(BinaryOp::kAdd, a, a, sum); });
    }
  }

  void Copies() const {
    const int order[] = {0, 2, 1, 3};
    const Tensor heads = Random({2, 512, 8, 64}).Permute(order);
    Bytes("copy heads out of time [2, 8, 512, 64]", 2, heads, [&] { heads.Clone(); });
    const Tensor flipped = Random({32, 64, 256}).Transpose();
    Bytes("copy transposed [32, 256, 64]", 2, flipped, [&] { flipped.Clone(); });
  }

  void Reductions() const {
    const Tensor x = Random({32, 64, 256});
    for (const Shape& shape :
         {Shape{32, 64, 1}, Shape{32, 1, 256}, Shape{1, 1, 256}, Shape{1, 1, 1}}) {
      const Tensor out = Empty(shape);
      Bytes(fmt::format("sum [32, 64, 256] to {}", ToString(shape)), 1, x,
            [&] { CpuBackend().Reduce(ReduceOp::kSum, x, out); });
    }
    Bytes("squared norm [32, 64, 256]", 1, x, [&] { CpuBackend().SquaredNorms({&x, 1}); });
  }

  void Structured() const {
    const Tensor x = Random({32, 64, 256}), out = Empty(x.shape());
    Bytes("softmax [32, 64, 256]", 2, x, [&] { CpuBackend().Softmax(x, out); });
    const Tensor decay = Random({32, 64, 1}).BroadcastTo(x.shape());
    Bytes("scan [32, 64, 256], one decay a step", 2, x,
          [&] { CpuBackend().LinearScan(decay, x, false, out); });
    Bytes("scan [32, 64, 256]", 3, x, [&] { CpuBackend().LinearScan(x, x, true, out); });
    const Tensor rows = Random({2, 515, 512}), weight = Random({512, 4});
    const Tensor grad = Random({2, 512, 512}), conv = Empty(grad.shape());
    const Tensor weight_grad = Empty(weight.shape());
    Bytes("conv [2, 512, 512], 4 taps", 2, grad,
          [&] { CpuBackend().DepthwiseConv(rows, weight, conv); });
    Bytes("conv weight gradient [2, 512, 512], 4 taps", 2, grad,
          [&] { CpuBackend().DepthwiseConvWeightGrad(rows, grad, weight_grad); });
    const Tensor p = Random({1 << 20}), g = Random({1 << 20});
    const Tensor m = Tensor::Zeros(p.shape(), dtype_), v = Tensor::Zeros(p.shape(), dtype_);
    const AdamWStep step{1e-3, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 1};
    Bytes("adamw, 1M parameters", 7, p, [&] { CpuBackend().AdamW(step, g, p, m, v); });
  }

  DType dtype_;
  const ReportOp& report_;
};

}  // namespace

const char* Name(OpKind kind) {
  switch (kind) {
    case OpKind::kProduct:
      return "product";
    case OpKind::kPrimitive:
      return "primitive";
    case OpKind::kFusedForward:
      return "fused forward";
    case OpKind::kFusedBackward:
      return "fused backward";
  }
  return "unknown";
}

void BenchOps(DType dtype, const ReportOp& report) { OpBench(dtype, report).Run(); }

}  // namespace mnemo
