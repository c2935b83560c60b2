#include <algorithm>

#include "src/core/ops_internal.h"

namespace mnemo {

using internal::BackendOf;
using internal::BroadcastShape;
using internal::EmptyLike;
using internal::RecordOne;
using internal::RequireSameType;

namespace {

void RequireMatMul(const Var& a, const Var& b, const char* op) {
  RequireSameType(a, b, op);
  const bool ranks = a.rank() >= 2 && (b.rank() == 2 || a.rank() == b.rank());
  Require(ranks && a.dim(-1) == b.dim(-2) &&
              std::equal(b.shape().begin(), b.shape().end() - 2, a.shape().begin()),
          "{}: shapes {} and {}", op, a.shape(), b.shape());
}

Shape MatMulShape(const Var& a, const Var& b) {
  Shape shape = a.shape();
  shape.back() = b.dim(-1);
  return shape;
}

// Rows shifted by one along axis -2, zeros coming in: later[t] = x[t + 1], earlier[t] = x[t - 1].
Var ShiftRows(const Var& x, bool later) {
  const int64_t size = x.dim(-2);
  return later ? PadSlice(Slice(x, -2, 1, size), -2, 0, size)
               : PadSlice(Slice(x, -2, 0, size - 1), -2, 1, size);
}

void CheckIds(const Tensor& ids, int64_t rows, int64_t bound, const char* op) {
  Require(ids.dtype() == DType::kI32 && ids.rank() == 1 && ids.contiguous() && ids.dim(0) == rows,
          "{}: ids must be i32 of shape [{}], not {} {}", op, rows, Name(ids.dtype()), ids.shape());
  if (bound < 0 || ids.device().type != DeviceType::kCpu) return;
  const std::vector<int32_t> values = ids.ToInts();
  for (size_t i = 0; i < values.size(); ++i) {
    Require(values[i] >= 0 && values[i] < bound, "{}: id {} at position {} is outside [0, {})", op,
            values[i], i, bound);
  }
}

// Leading dims folded into the rows where a matrix multiplies all of them.
Shape Folded(const Shape& a, bool plain) { return plain ? Shape{-1, a.back()} : a; }

// The gradient a b of input i, of the input's shape but for folded rows, added to where it is
// collected if that is known.
void SetProduct(VjpContext& c, int i, const Var& a, const Var& b, double scale) {
  const Tensor& sum = c.gradient_sum(i);
  const Shape shape = MatMulShape(a, b);
  if (!sum.defined() || !sum.CanView(shape)) {
    c.Set(i, Reshape(MatMul(a, b, scale), c.input_shape(i)));
    return;
  }
  BackendOf(sum).Gemm(a.value(), b.value(), scale, 1, sum.View(shape));
}

// Sets the gradients of inputs first and first + 1, a and b, of scale a b.
void SetFactors(VjpContext& c, int first, const Var& gradient, DType operands, double scale,
                bool plain) {
  const Var g = Cast(Reshape(gradient, Folded(gradient.shape(), plain)), operands);
  if (c.needs(first)) SetProduct(c, first, g, Transpose(c.input(first + 1)), scale);
  if (!c.needs(first + 1)) return;
  const Var& a = c.input(first);
  SetProduct(c, first + 1, Transpose(Reshape(a, Folded(a.shape(), plain))), g, scale);
}

// What the derivative of a product of inputs first and first + 1 reads.
Saves FactorsOf(const Var& a, const Var& b, int first) {
  return {.inputs = ((a.tracked() ? 2u : 0u) | (b.tracked() ? 1u : 0u)) << first};
}

// scale a b + beta c into out, with folded rows where b is plain.
void Multiply(const Var& a, const Var& b, double scale, double beta, const Tensor& c,
              const Tensor& out) {
  const bool plain = b.rank() < a.rank();
  const auto folded = [&](const Tensor& x) { return x.Reshape(Folded(x.shape(), plain)); };
  BackendOf(out).Gemm(folded(a.value()), b.value(), scale, beta, folded(c), folded(out));
}

Var Product(const Var& a, const Var& b, double scale, DType type) {
  RequireMatMul(a, b, "matmul");
  Tensor out = Tensor::Empty(MatMulShape(a, b), type, a.device());
  Multiply(a, b, scale, 0, out, out);
  return RecordOne(Primitive::kMatMul, {a, b}, std::move(out), FactorsOf(a, b, 0),
                   [scale, operands = a.dtype(), plain = b.rank() < a.rank()](VjpContext& c) {
                     SetFactors(c, 0, c.grad(), operands, scale, plain);
                   });
}

}  // namespace

Var MatMul(const Var& a, const Var& b, double scale) { return Product(a, b, scale, a.dtype()); }

Var WideMatMul(const Var& a, const Var& b, double scale) {
  return Product(a, b, scale, WideType(a.dtype()));
}

Var AddMatMul(Var c, const Var& a, const Var& b, double scale) {
  RequireMatMul(a, b, "add_matmul");
  RequireSameType(a, c, "add_matmul");
  const Shape shape = MatMulShape(a, b);
  Require(c.shape() == shape, "add_matmul: {} plus a product of shape {}", c.shape(), shape);
  // A tracked c whose value no derivative kept is as free to be overwritten as a constant.
  const bool reuse = c.value().sole_owner() && c.value().contiguous();
  Tensor out = reuse ? c.value() : EmptyLike(c.value(), shape);
  Multiply(a, b, scale, 1, c.value(), out);
  return RecordOne(Primitive::kAddMatMul, {c, a, b}, std::move(out), FactorsOf(a, b, 1),
                   [scale, operands = a.dtype(), plain = b.rank() < a.rank()](VjpContext& v) {
                     SetFactors(v, 1, v.grad(), operands, scale, plain);
                     if (v.needs(0)) v.Set(0, v.grad());
                   });
}

Var LinearScan(const Var& a, const Var& b, bool reverse) {
  RequireSameType(a, b, "linear_scan");
  const Shape shape = BroadcastShape(a.shape(), b.shape(), "linear_scan");
  Require(shape.size() >= 2, "linear_scan: shape {}", shape);
  Tensor out = EmptyLike(a.value(), shape);
  BackendOf(out).LinearScan(a.value().BroadcastTo(shape), b.value().BroadcastTo(shape), reverse,
                            out);
  return RecordOne(Primitive::kLinearScan, {a, b}, std::move(out), {.inputs = 1, .outputs = 1},
                   [reverse](VjpContext& c) {
                     // The adjoint runs the other way with the coefficients of the next row:
                     // u_t = g_t + a_{t+1} u_{t+1}; db = u; da_t = u_t y_{t-1}.
                     Shape rows = c.input_shape(0);
                     while (rows.size() < 2) rows.insert(rows.begin(), 1);
                     rows[rows.size() - 2] = c.output(0).dim(-2);
                     const Var a = BroadcastTo(c.input(0), rows);
                     const Var u = LinearScan(ShiftRows(a, !reverse), c.grad(), !reverse);
                     if (c.needs(1)) c.Set(1, SumTo(u, c.input_shape(1)));
                     if (c.needs(0)) {
                       c.Set(0, SumTo(Mul(u, ShiftRows(c.output(0), reverse)), c.input_shape(0)));
                     }
                   });
}

Var Softmax(const Var& x) {
  Tensor out = EmptyLike(x.value(), x.shape());
  BackendOf(out).Softmax(x.value(), out);
  return RecordOne(Primitive::kSoftmax, {x}, std::move(out), {.outputs = 1}, [](VjpContext& c) {
    const Var& y = c.output(0);
    const Var gy = Mul(c.grad(), y);
    c.Set(0, Sub(gy, Mul(y, Sum(gy, -1))));
  });
}

Var DepthwiseConv(const Var& x, const Var& weight) {
  RequireSameType(x, weight, "depthwise_conv");
  Require(
      x.rank() == 3 && weight.rank() == 2 && weight.dim(0) == x.dim(2) && x.dim(1) >= weight.dim(1),
      "depthwise_conv: shapes {} and {}", x.shape(), weight.shape());
  const int64_t taps = weight.dim(1), rows = x.dim(1) - taps + 1;
  Tensor out = EmptyLike(x.value(), {x.dim(0), rows, x.dim(2)});
  BackendOf(out).DepthwiseConv(x.value(), weight.value(), out);
  return RecordOne(Primitive::kDepthwiseConv, {x, weight}, std::move(out), {.inputs = 3},
                   [taps, rows](VjpContext& c) {
                     const Var g = c.grad();
                     if (c.needs(0)) {
                       // dx_s = sum_j w[:, j] g_{s - j}: a convolution of the padded gradient with
                       // the taps in reverse order.
                       std::vector<Var> reversed;
                       for (int64_t j = taps - 1; j >= 0; --j) {
                         reversed.push_back(Slice(c.input(1), 1, j, j + 1));
                       }
                       const Var padded = PadSlice(g, 1, taps - 1, rows + 2 * (taps - 1));
                       c.Set(0, DepthwiseConv(padded, Concat(reversed, 1)));
                     }
                     if (c.needs(1)) c.Set(1, DepthwiseConvWeightGrad(c.input(0), g));
                   });
}

Var DepthwiseConvWeightGrad(const Var& x, const Var& grad) {
  RequireSameType(x, grad, "depthwise_conv_weight_grad");
  Require(x.rank() == 3 && grad.rank() == 3 && x.dim(0) == grad.dim(0) && x.dim(2) == grad.dim(2) &&
              x.dim(1) >= grad.dim(1),
          "depthwise_conv_weight_grad: shapes {} and {}", x.shape(), grad.shape());
  const int64_t rows = grad.dim(1), taps = x.dim(1) - rows + 1;
  Tensor out = EmptyLike(x.value(), {x.dim(2), taps});
  BackendOf(out).DepthwiseConvWeightGrad(x.value(), grad.value(), out);
  return RecordOne(Primitive::kDepthwiseConvWeightGrad, {x, grad}, std::move(out), {.inputs = 3},
                   [taps, rows](VjpContext& c) {
                     const Var h = c.grad();  // [D, taps]
                     if (c.needs(1)) c.Set(1, DepthwiseConv(c.input(0), h));
                     if (c.needs(0)) {
                       // dx_{t + j} += h[:, j] grad_t: the adjoint of DepthwiseConv.
                       std::vector<Var> reversed;
                       for (int64_t j = taps - 1; j >= 0; --j) {
                         reversed.push_back(Slice(h, 1, j, j + 1));
                       }
                       const Var padded = PadSlice(c.input(1), 1, taps - 1, rows + 2 * (taps - 1));
                       c.Set(0, DepthwiseConv(padded, Concat(reversed, 1)));
                     }
                   });
}

Var GatherRows(const Var& table, const Tensor& ids) {
  Require(table.rank() == 2, "gather_rows: table {}", table.shape());
  CheckIds(ids, ids.rank() == 1 ? ids.dim(0) : -1, table.dim(0), "gather_rows");
  Tensor out = EmptyLike(table.value(), {ids.dim(0), table.dim(1)});
  BackendOf(out).GatherRows(table.value(), ids, out);
  return RecordOne(
      Primitive::kGatherRows, {table}, std::move(out), {},
      [ids, rows = table.dim(0)](VjpContext& c) { c.Set(0, ScatterAddRows(c.grad(), ids, rows)); });
}

Var ScatterAddRows(const Var& rows, const Tensor& ids, int64_t count) {
  Require(rows.rank() == 2, "scatter_add_rows: rows {}", rows.shape());
  CheckIds(ids, rows.dim(0), count, "scatter_add_rows");
  Tensor out = EmptyLike(rows.value(), {count, rows.dim(1)});
  BackendOf(out).ScatterAddRows(rows.value(), ids, out);
  return RecordOne(Primitive::kScatterAddRows, {rows}, std::move(out), {},
                   [ids](VjpContext& c) { c.Set(0, GatherRows(c.grad(), ids)); });
}

Var PickColumns(const Var& x, const Tensor& ids) {
  Require(x.rank() == 2, "pick_columns: shape {}", x.shape());
  CheckIds(ids, x.dim(0), -1, "pick_columns");
  Tensor out = EmptyLike(x.value(), {x.dim(0), 1});
  BackendOf(out).PickColumns(x.value(), ids, out);
  return RecordOne(
      Primitive::kPickColumns, {x}, std::move(out), {},
      [ids, columns = x.dim(1)](VjpContext& c) { c.Set(0, PlaceColumns(c.grad(), ids, columns)); });
}

Var PlaceColumns(const Var& values, const Tensor& ids, int64_t columns) {
  Require(values.rank() == 2 && values.dim(1) == 1, "place_columns: shape {}", values.shape());
  CheckIds(ids, values.dim(0), -1, "place_columns");
  Tensor out = EmptyLike(values.value(), {values.dim(0), columns});
  BackendOf(out).PlaceColumns(values.value(), ids, out);
  return RecordOne(Primitive::kPlaceColumns, {values}, std::move(out), {},
                   [ids](VjpContext& c) { c.Set(0, PickColumns(c.grad(), ids)); });
}

}  // namespace mnemo
