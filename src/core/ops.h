// Primitive operations on Vars. Each computes with the kernels of its inputs' backend and, if an
// input is tracked, records its derivative. Shape errors throw TensorError naming op and shapes.
//
// Binary operations broadcast as usual: trailing dims align, size 1 repeats. A negative axis counts
// from the end. Outputs are new tensors unless "view" is said.
#pragma once

#include <span>
#include <vector>

#include "src/core/tape.h"

namespace mnemo {

class Peers;

// Elementwise, one input.
Var Negate(const Var& x);
Var Exp(const Var& x);
Var Log(const Var& x);
Var Sqrt(const Var& x);
Var Rsqrt(const Var& x);
Var Reciprocal(const Var& x);
Var Sigmoid(const Var& x);
Var Tanh(const Var& x);
Var Relu(const Var& x);
Var Step(const Var& x);  // 1 where x > 0; a constant to the tape
Var Silu(const Var& x);
Var Gelu(const Var& x);  // tanh form
// First and second derivatives of the activations, differentiable themselves.
Var SiluGrad(const Var& x);
Var SiluGrad2(const Var& x);
Var GeluGrad(const Var& x);
Var GeluGrad2(const Var& x);
Var Affine(const Var& x, double scale, double shift);
inline Var Scale(const Var& x, double scale) { return Affine(x, scale, 0); }
Var Square(const Var& x);
Var Cast(const Var& x, DType dtype);  // x itself if it has this dtype
// In the dtype that sums over x are taken in: f32 for bf16, else x itself.
inline Var Widen(const Var& x) { return Cast(x, WideType(x.dtype())); }

// Elementwise, broadcasting.
Var Add(const Var& a, const Var& b);
Var Sub(const Var& a, const Var& b);
Var Mul(const Var& a, const Var& b);
Var Div(const Var& a, const Var& b);
Var Where(const Tensor& mask, const Var& a, const Var& b);  // mask > 0 ? a : b

// Reductions and broadcasts. SumTo sums x down to `shape`, which broadcasts to x's.
Var SumTo(const Var& x, const Shape& shape);
Var Sum(const Var& x, int axis);                    // keeps the axis with size 1
Var Mean(const Var& x, int axis);                   // keeps the axis with size 1
Var SumAll(const Var& x);                           // []
Var BroadcastTo(const Var& x, const Shape& shape);  // view
Tensor MaxOverLast(const Tensor& x);                // keeps the axis with size 1

// scale a b. a [..., m, k], b [..., k, n] -> [..., m, n]: equal leading dims, or b a plain matrix.
// Products of bf16 are added up in f32 and rounded once; WideMatMul does not round: its result is
// f32. The gradient of either is rounded to the type of a and b before it is multiplied.
Var MatMul(const Var& a, const Var& b, double scale = 1);
Var WideMatMul(const Var& a, const Var& b, double scale = 1);
// c + scale a b, one pass, of shapes as for MatMul. Overwrites c's value if nothing else refers to
// it (so move it in).
Var AddMatMul(Var c, const Var& a, const Var& b, double scale = 1);

// Shape.
Var Reshape(const Var& x, const Shape& shape);          // view if it can be; one dim may be -1
Var Permute(const Var& x, std::span<const int> order);  // view
Var Permute(const Var& x, std::initializer_list<int> order);
Var Transpose(const Var& x);                                    // view: swaps the last two dims
Var Slice(const Var& x, int axis, int64_t begin, int64_t end);  // view
// The adjoint of Slice: zeros of size `size` along axis, with x at `begin`.
Var PadSlice(const Var& x, int axis, int64_t begin, int64_t size);
std::vector<Var> Split(const Var& x, int axis, std::span<const int64_t> sizes);  // views
Var Concat(std::span<const Var> parts, int axis);

// Structured.
// Along axis -2 of [..., T, C], from zero: forward y_t = a_t y_{t-1} + b_t; reverse
// y_t = a_t y_{t+1} + b_t. a and b broadcast against each other.
Var LinearScan(const Var& a, const Var& b, bool reverse = false);
Var Softmax(const Var& x);  // last dim; a row of -infinity gives zeros
// x [B, T + K - 1, D], weight [D, K] -> [B, T, D]: y_t = sum_j weight[:, j] x_{t + j}.
Var DepthwiseConv(const Var& x, const Var& weight);
// x [B, T + K - 1, D], grad [B, T, D] -> [D, K].
Var DepthwiseConvWeightGrad(const Var& x, const Var& grad);
// table [V, D], ids i32 [N] -> [N, D]. An id outside [0, V) throws TensorError if it lies on the
// CPU; on another device ids have been checked before they went there, as reading them would wait.
Var GatherRows(const Var& table, const Tensor& ids);
Var ScatterAddRows(const Var& rows, const Tensor& ids, int64_t count);  // [N, D] -> [count, D]
// x [N, C], ids i32 [N] -> [N, 1]; 0 where an id is outside [0, C). And its adjoint.
Var PickColumns(const Var& x, const Tensor& ids);
Var PlaceColumns(const Var& values, const Tensor& ids, int64_t columns);

// Between what all peers (peers.h) hold alike and what each computes a part of. `peers` outlives
// the tape.
// x itself, to be read by a part's computation; its gradient is the sum of the peers' gradients.
Var SpreadToPeers(const Var& x, Peers& peers);
// The sum of the peers' x, which all then hold; its gradient is that of every x.
Var SumOverPeers(const Var& x, Peers& peers);

inline Var operator+(const Var& a, const Var& b) { return Add(a, b); }
inline Var operator-(const Var& a, const Var& b) { return Sub(a, b); }
inline Var operator*(const Var& a, const Var& b) { return Mul(a, b); }
inline Var operator-(const Var& x) { return Negate(x); }

}  // namespace mnemo
