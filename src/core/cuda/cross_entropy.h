// Cross-entropy of a linear head on GPUs: the kernels of the fused ops "cross_entropy" and
// "cross_entropy_gradient".
//
// The first has logits for some rows and some vocabulary entries at a time, in f32, in a buffer
// that the second-level cache can hold; its backward pass computes them again. The second has them
// once, for some rows and the whole vocabulary.
#pragma once

#include "src/core/cuda/cross_entropy_sizes.h"
#include "src/core/cuda/kernels.h"

namespace mnemo::cuda {

// Where a tile of logits [rows, columns] lies: its first vocabulary entry, and whether it is the
// first and the last of its rows.
struct LogitTile {
  const float* logits;
  int64_t rows, columns, first_column;
  bool first, last;
};

// Goes on with the rows' maximum and sum of exp(logit - maximum), and puts the logit at column
// targets[row] into picked if it is in the tile (0 if it is in none). Leaves the logarithm of the
// sum of exponentials in log_sums after the last tile.
struct LogSumCall {
  const int32_t* targets;
  float *maxima, *sums, *picked, *log_sums;  // [rows]
};
void UpdateLogSums(const Launch& launch, const LogitTile& tile, const LogSumCall& call);

// gradient [rows, columns], bf16 or f32 and possibly the logits' own memory (f32), of
// sum over rows of grad_log_sums log_sum + grad_picked picked.
struct LogitGradientCall {
  const int32_t* targets;
  const float *log_sums, *grad_log_sums, *grad_picked;  // [rows]
  DType dtype;
  void* gradient;
};
void LogitGradient(const Launch& launch, const LogitTile& tile, const LogitGradientCall& call);

// Logits of some rows and the whole vocabulary.
struct LogitRows {
  const float* logits;  // [rows, columns], on 16 bytes
  int64_t rows, columns;
};
// losses [rows] = log of the sum of exp(logit) - the target's logit, 0 where the target is
// negative; gradient [rows, columns], bf16 or f32, of `scale` times their sum.
struct LossGradientCall {
  const int32_t* targets;  // [rows]
  float scale;
  float* losses;
  DType dtype;
  void* gradient;
};
void LossAndGradient(const Launch& launch, const LogitRows& rows, const LossGradientCall& call);

void RegisterCrossEntropy();
void RegisterCrossEntropyGradient();

}  // namespace mnemo::cuda
