#include "tests/reference/reference_model.h"

#include "tests/reference/reference_attention.h"
#include "tests/reference/reference_layers.h"
#include "tests/reference/reference_lmm.h"
#include "tests/reference/reference_mac.h"
#include "tests/reference/reference_mag.h"
#include "tests/reference/reference_mal.h"

namespace mnemo::reference {

Matrix Mixer(const Block& block, const Matrix& x) {
  switch (block.options.kind) {
    case BlockKind::kLmm:
      return LmmMixer(block.options, block.weights, x);
    case BlockKind::kMac:
      return MacMixer(block.options, block.weights, x);
    case BlockKind::kMag:
      return MagMixer(block.options, block.weights, x);
    case BlockKind::kMal:
      return MalMixer(block.options, block.weights, x);
    case BlockKind::kTransformer:
      return TransformerMixer(block.options, block.weights, x);
  }
  return {};
}

Matrix RunBlock(const Block& block, const Matrix& x, const std::vector<int>& starts) {
  const BlockWeights& w = block.weights;
  const double epsilon = block.options.epsilon;
  std::vector<int> edges = {0};
  for (int start : starts) {
    if (start > 0) edges.push_back(start);
  }
  edges.push_back(x.rows);
  Matrix out(x.rows, x.cols);
  for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
    Matrix rows = Rows(x, edges[i], edges[i + 1]);
    rows = Add(rows, Mixer(block, RmsNorm(rows, w.mixer_norm, 1, epsilon)));
    rows = Add(rows, SwiGlu(RmsNorm(rows, w.mlp_norm, 1, epsilon), w.w_gate, w.w_up, w.w_down));
    Paste(out, edges[i], 0, rows);
  }
  return out;
}

Matrix RunModel(const Model& model, const std::vector<int>& tokens,
                const std::vector<int>& starts) {
  Matrix x(static_cast<int>(tokens.size()), model.embedding.cols);
  for (int t = 0; t < x.rows; ++t) SetRow(x, t, Row(model.embedding, tokens[t]));
  for (const Block& block : model.blocks) x = RunBlock(block, x, starts);
  const Matrix& head = model.head.rows > 0 ? model.head : model.embedding;
  return Linear(RmsNorm(x, model.final_norm, 1, model.epsilon), head);
}

Vector TokenLosses(const Model& model, const std::vector<int>& tokens,
                   const std::vector<int>& targets, const std::vector<int>& starts) {
  return CrossEntropy(RunModel(model, tokens, starts), targets);
}

}  // namespace mnemo::reference
