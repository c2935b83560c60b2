#include "tests/reference/reference_mal.h"

#include "tests/reference/reference_attention.h"
#include "tests/reference/reference_layers.h"
#include "tests/reference/reference_lmm.h"

namespace mnemo::reference {

Matrix MalMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x) {
  const Matrix m = Linear(GatedMemory(options, weights, x), weights.wm);
  const Matrix a =
      Attention(options, weights, m, {{weights.persistent, true}, {m, false}}, options.window, 0);
  return Linear(a, weights.wo);
}

}  // namespace mnemo::reference
