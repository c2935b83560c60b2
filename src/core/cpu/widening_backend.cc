#include "src/core/cpu/widening_backend.h"

namespace mnemo {
namespace {

bool Narrow(const Tensor& x) { return x.dtype() == DType::kBF16; }

// x in f32; what is repeated (stride 0) stays repeated.
Tensor Widened(const Tensor& x) {
  if (!Narrow(x)) return x;
  Tensor once = x;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (x.strides()[axis] == 0 && x.dim(axis) > 1) once = once.Slice(axis, 0, 1);
  }
  return once.To(DType::kF32).BroadcastTo(x.shape());
}

// Calls f(wide) to write what belongs into `out`.
template <typename F>
void Store(const Tensor& out, F&& f) {
  if (!Narrow(out)) return f(out);
  const Tensor wide = Tensor::Empty(out.shape(), DType::kF32, out.device());
  f(wide);
  Backend::For(out.device()).Copy(wide, out);
}

}  // namespace

void WideningBackend::Unary(UnaryOp op, const Tensor& x, const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.Unary(op, Widened(x), wide); });
}

void WideningBackend::Affine(const Tensor& x, double scale, double shift, const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.Affine(Widened(x), scale, shift, wide); });
}

void WideningBackend::Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  MNEMO_CHECK(a.dtype() == out.dtype());
  MNEMO_CHECK(b.dtype() == out.dtype() ||
              (op == BinaryOp::kAdd && Narrow(b) && out.dtype() == DType::kF32));
  Store(out, [&](const Tensor& wide) { wide_.Binary(op, Widened(a), Widened(b), wide); });
}

void WideningBackend::Where(const Tensor& mask, const Tensor& a, const Tensor& b,
                            const Tensor& out) {
  MNEMO_CHECK(mask.dtype() == out.dtype() && a.dtype() == out.dtype() && b.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.Where(Widened(mask), Widened(a), Widened(b), wide); });
}

void WideningBackend::Reduce(ReduceOp op, const Tensor& x, const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.Reduce(op, Widened(x), wide); });
}

void WideningBackend::Gemm(const Tensor& a, const Tensor& b, double alpha, double beta,
                           const Tensor& c, const Tensor& out) {
  MNEMO_CHECK(a.dtype() == b.dtype() && c.dtype() == out.dtype());
  MNEMO_CHECK(out.dtype() == a.dtype() || (Narrow(a) && out.dtype() == DType::kF32));
  Store(out, [&](const Tensor& wide) {
    const Tensor addend = beta == 0 ? wide : c.To(wide.dtype());
    wide_.Gemm(Widened(a), Widened(b), alpha, beta, addend, wide);
  });
}

void WideningBackend::LinearScan(const Tensor& a, const Tensor& b, bool reverse,
                                 const Tensor& out) {
  MNEMO_CHECK(a.dtype() == out.dtype() && b.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.LinearScan(Widened(a), Widened(b), reverse, wide); });
}

void WideningBackend::Softmax(const Tensor& x, const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.Softmax(Widened(x), wide); });
}

void WideningBackend::DepthwiseConv(const Tensor& x, const Tensor& weight, const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype() && weight.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.DepthwiseConv(Widened(x), Widened(weight), wide); });
}

void WideningBackend::DepthwiseConvWeightGrad(const Tensor& x, const Tensor& grad,
                                              const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype() && grad.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) {
    wide_.DepthwiseConvWeightGrad(Widened(x), Widened(grad), wide);
  });
}

void WideningBackend::GatherRows(const Tensor& table, const Tensor& ids, const Tensor& out) {
  MNEMO_CHECK(table.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.GatherRows(Widened(table), ids, wide); });
}

void WideningBackend::ScatterAddRows(const Tensor& rows, const Tensor& ids, const Tensor& out) {
  MNEMO_CHECK(rows.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.ScatterAddRows(Widened(rows), ids, wide); });
}

void WideningBackend::PickColumns(const Tensor& x, const Tensor& ids, const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.PickColumns(Widened(x), ids, wide); });
}

void WideningBackend::PlaceColumns(const Tensor& values, const Tensor& ids, const Tensor& out) {
  MNEMO_CHECK(values.dtype() == out.dtype());
  Store(out, [&](const Tensor& wide) { wide_.PlaceColumns(Widened(values), ids, wide); });
}

void WideningBackend::AdamW(const AdamWStep& step, const Tensor& gradient, const Tensor& parameter,
                            const Tensor& first_moment, const Tensor& second_moment) {
  wide_.AdamW(step, gradient, parameter, first_moment, second_moment);
}

std::vector<double> WideningBackend::SquaredNorms(std::span<const Tensor> tensors) {
  std::vector<Tensor> wide;
  for (const Tensor& x : tensors) wide.push_back(Widened(x));
  return wide_.SquaredNorms(wide);
}

}  // namespace mnemo
