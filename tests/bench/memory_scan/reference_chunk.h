// One chunk of the reference (reference.h): its forward pass, and its backward pass from what that
// kept. Matrices are [token, feature].
#pragma once

#include <vector>

#include "tests/bench/memory_scan/reference.h"

namespace mnemo::memory_reference {

// The activation and its first two derivatives, elementwise.
Mat Values(const Rule& rule, const Mat& z);
Mat Slopes(const Rule& rule, const Mat& z);
Mat Curves(const Rule& rule, const Mat& z);

struct NormStats {
  double r;
  std::vector<double> xhat;
};

NormStats Normalize(const double* x, int n, double epsilon);

// x -> x - mean(x) - xhat mean(x o xhat)
std::vector<double> Project(const std::vector<double>& x, const std::vector<double>& xhat);

struct Coefficients {
  std::vector<double> a, b, e;
  Mat g, p;
  Mat plain_g;              // before its rows are scaled
  std::vector<double> row;  // what with
};

// Everything one chunk computes going forward; the backward pass needs all of it.
struct Chunk {
  int t0, n;
  Mat q, k, v;
  Coefficients c;
  State state;                        // at the chunk's start
  std::vector<Mat> h, z, u, d;        // keys: h[i] input of layer i, z its output, d the delta
  std::vector<Mat> x, zq, qw, qs, r;  // reads
  Mat err;
  std::vector<double> norm2,
      factor;                // of the inner gradient; what the clamp multiplies it with
  std::vector<Mat> clamped;  // d, clamped: what is read and written
  std::vector<Mat> q0;       // reads through W_0
};

// n rows from t0 on.
Mat Rows(const Mat& a, int t0, int n);
double RowSquares(const Mat& a, int row);
// 1 - A_t where the rule forgets towards W_0.
std::vector<double> Fade(const Rule& rule, const Coefficients& c);
// With biases: a column of ones behind an input's features, a column of zeros (what reaches the
// inputs does not reach the ones), and back.
Mat Input(const Rule& rule, const Mat& x);
Mat Unreached(const Rule& rule, const Mat& x);
Mat Features(const Rule& rule, const Mat& x);

// The chunk that begins at t0. Writes its rows of y if that is not null.
Chunk RunChunk(const Rule& rule, const Inputs& in, const State& state, int t0, Mat* y);

// The state behind it.
State NextState(const Rule& rule, const Inputs& in, const Chunk& c);

// Adds to `out`. `dstate` is the adjoint of the state after the chunk, then of the state before.
void ChunkBackward(const Rule& rule, const Inputs& in, const Chunk& c, const Mat& dy, State& dstate,
                   Gradients& out);

}  // namespace mnemo::memory_reference
