// Float64 definition of the memory scan in chunk form, forward and hand-derived backward.
//
// Plain loops on the host: this is the truth the CUDA kernels are compared with, and it is itself
// checked against central differences (see reference_check.cc). One sequence, one head.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/bench/memory_scan/matrix.h"

namespace mnemo::memory_reference {

struct Rule {
  int depth = 2;
  int chunk = 64;
  bool norm = true;
  bool residual = true;
  double epsilon = 1e-6;
  bool gelu = false;             // tanh form, instead of SiLU
  bool round_operands = false;   // of every product, to bf16; and y, dq, dk and dv themselves
  bool towards_initial = false;  // forgetting towards the first weights
  double clamp = 0;              // of the inner gradient's norm; 0: none
  bool biases = false;
};

// Weights and momenta, one matrix per layer: w[i] is [out, in]. With biases they are one more
// column, [out, in + 1], whose input is 1.
struct State {
  std::vector<Mat> w, s;
};

struct Inputs {
  Mat q, k, v;                            // [T, f]
  std::vector<double> theta, eta, alpha;  // [T]
  std::vector<double> gain, bias;         // [f], of the layer norm
  State carry;
  std::vector<Mat> initial;  // W_0; empty where nothing asks for it
  std::vector<bool> resets;  // by chunk: begins at W_0, S = 0; empty: none does
  // [chunk]: row t of G is scaled by max(0, 1 / t + row_scale_t), t from 1. Empty: it is not.
  std::vector<double> row_scale;
};

struct Outputs {
  Mat y;  // [T, f]
  State carry;
  int64_t clamp_hits = 0;
};

struct Gradients {
  Mat q, k, v;
  std::vector<double> theta, eta, alpha, gain, bias;
  State carry;
  std::vector<Mat> initial;
  std::vector<double> row_scale;
};

Outputs Forward(const Rule& rule, const Inputs& in);

// Exact gradients of <dy, y> + <dcarry, carry out>, second-order terms included.
Gradients Backward(const Rule& rule, const Inputs& in, const Mat& dy, const State& dcarry);

}  // namespace mnemo::memory_reference
