#include "tests/reference/reference_mag.h"

#include "tests/reference/reference_attention.h"
#include "tests/reference/reference_layers.h"
#include "tests/reference/reference_lmm.h"

namespace mnemo::reference {

Matrix MagMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x) {
  const Matrix a =
      Attention(options, weights, x, {{weights.persistent, true}, {x, false}}, options.window, 0);
  const Matrix y = MemoryOverRows(options, weights, x);
  const Matrix left = RmsNorm(a, weights.attn_norm, options.heads, options.epsilon);
  const Matrix right = Map(Sigmoid, RmsNorm(y, weights.read_norm, options.heads, options.epsilon));
  return Linear(Multiply(left, right), weights.wo);
}

}  // namespace mnemo::reference
