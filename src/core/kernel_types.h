// What kernels can be asked for, in types that every compiler of kernels can read.
#pragma once

namespace mnemo {

enum class UnaryOp {
  kNegate,
  kExp,
  kLog,
  kSqrt,
  kRsqrt,
  kReciprocal,
  kSigmoid,
  kTanh,
  kRelu,  // max(0, x)
  kStep,  // 1 where x > 0, else 0
  // Activations with their first and second derivatives. GELU is the tanh form.
  kSilu,
  kSiluGrad,
  kSiluGrad2,
  kGelu,
  kGeluGrad,
  kGeluGrad2,
};
enum class BinaryOp { kAdd, kSub, kMul, kDiv, kMax, kGreater /* 1 or 0 */ };
enum class ReduceOp { kSum, kMax };

// AdamW's constants for one step (Loshchilov and Hutter, arXiv 1711.05101), bias corrections
// included: p -= rate * (m_hat / (sqrt(v_hat) + epsilon) + decay * p).
struct AdamWStep {
  double rate, beta1, beta2, epsilon, decay;
  double correction1, correction2;  // 1 - beta^t
  double gradient_scale;            // multiplies the gradient first (clipping)
};

}  // namespace mnemo
