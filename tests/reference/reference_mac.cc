#include "tests/reference/reference_mac.h"

#include <algorithm>

#include "tests/reference/reference_attention.h"
#include "tests/reference/reference_layers.h"
#include "tests/reference/reference_lmm.h"

namespace mnemo::reference {
namespace {

// f_W of every row, head by head, without writing.
Matrix ReadOnly(const BlockOptions& options, const BlockWeights& weights,
                const std::vector<MemoryState>& states, const Matrix& query) {
  const int f = query.cols / options.heads;
  Matrix out(query.rows, query.cols);
  for (int h = 0; h < options.heads; ++h) {
    const Matrix part = Slice(query, 0, query.rows, h * f, f);
    for (int t = 0; t < query.rows; ++t) {
      const Vector read = MemoryRead(options.rule, weights.memory[h], states[h].w, Row(part, t));
      for (int i = 0; i < f; ++i) out(t, h * f + i) = read[i];
    }
  }
  return out;
}

}  // namespace

Matrix MacMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x) {
  std::vector<MemoryState> states = FirstStates(weights);
  Matrix a(x.rows, x.cols);
  Matrix y(x.rows, x.cols);
  for (int begin = 0; begin < x.rows; begin += options.segment) {
    const int end = std::min(begin + options.segment, x.rows);
    const Matrix rows = Rows(x, begin, end);
    const Matrix query =
        L2Norm(Map(Silu, Linear(rows, weights.wr)), options.heads, options.epsilon);
    const Matrix h = ReadOnly(options, weights, states, query);
    Paste(a, begin, 0,
          Attention(options, weights, rows, {{weights.persistent, true}, {h, false}, {rows, false}},
                    0, begin));
    // All rows of a so far: the convolution looks back into the segment before.
    const std::vector<MemoryInputs> inputs = ProjectInputs(options, weights, Rows(a, 0, end));
    Paste(y, begin, 0, RunHeads(options, weights, inputs, begin, end, states));
  }
  const Matrix gate = Map(Sigmoid, RmsNorm(y, weights.read_norm, options.heads, options.epsilon));
  return Linear(Multiply(a, gate), weights.wo);
}

}  // namespace mnemo::reference
