// References of the layers around the memory. Rows are tokens; a weight is [out, in], y = x W^T.
#pragma once

#include "tests/reference/reference_matrix.h"

namespace mnemo::reference {

double Sigmoid(double x);
double Silu(double x);  // x sigmoid(x)
double Gelu(double x);  // 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))

// The same for every element.
Matrix Map(double (*function)(double), const Matrix& x);

// Elementwise.
Matrix Add(const Matrix& x, const Matrix& y);
Matrix Multiply(const Matrix& x, const Matrix& y);

// x [T, in], w [out, in] -> [T, out].
Matrix Linear(const Matrix& x, const Matrix& w);

// Per token and head (cols / heads columns): x / sqrt(mean x^2 + epsilon) o weight; weight [cols].
Matrix RmsNorm(const Matrix& x, const Vector& weight, int heads, double epsilon);

// Per token and head: x / sqrt(sum x^2 + epsilon).
Matrix L2Norm(const Matrix& x, int heads, double epsilon);

// Causal depthwise, width 4: y_t = sum_j w[j] x_{t-3+j}; x is zero before its first row. w [cols,
// 4].
Matrix CausalConv(const Matrix& x, const Matrix& w);

// (SiLU(x w_gate^T) o (x w_up^T)) w_down^T; w_gate, w_up [m, d], w_down [d, m].
Matrix SwiGlu(const Matrix& x, const Matrix& w_gate, const Matrix& w_up, const Matrix& w_down);

// Cross-entropy of each token, not averaged: log sum exp(logits_t) - logits_t[target_t] for each
// token, in nats; 0 where the target is negative (masked). logits [T, V], targets [T].
Vector CrossEntropy(const Matrix& logits, const std::vector<int>& targets);

}  // namespace mnemo::reference
