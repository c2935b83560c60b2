// Tensor parallelism: a model held in parts.
//
// Each of `ranks` ranks has some of the heads, with all that belongs to them (projections, gates,
// norms, convolutions, the memory and its first weights), some of the MLP's hidden columns and some
// entries of the vocabulary. The residual stream and its norms are on every rank, bitwise the same.
// What a part computes of it is summed over the ranks: twice a block, and twice on the way back.
// These sums are inside a unit, and so in its tape; the ranks run the same units in the same order,
// also when rematerialisation runs them again, so that their sums meet.
#pragma once

#include "absl/status/status.h"
#include "src/core/fused/cross_entropy.h"
#include "src/model/parameters.h"
#include "src/model/spec.h"

namespace mnemo {

// InvalidArgument, naming all that does not suit, unless `ranks` ranks can hold a part each of the
// model: they must divide heads and MLP, and have an entry of the vocabulary each. `whole` is not
// split.
absl::Status CheckTensorSplit(const ModelSpec& whole, int ranks);

// The specification of one rank's part. The split has passed CheckTensorSplit.
ModelSpec SplitSpec(ModelSpec whole, const TensorSplit& split);

// The three below are the identity where the model is not split. Undefined Vars stay undefined.
// What all ranks hold alike, to be read by what each computes of its own.
Var IntoParts(const ModelSpec& spec, const Var& x);
// The sum of what all ranks computed.
Var SumOfParts(const ModelSpec& spec, const Var& x);
// Rows of own heads [B, n, own_width] -> of all heads [B, n, width], to be read as by IntoParts.
Var GatherHeads(const ModelSpec& spec, const Var& x);

// Rows [N, d] of the embedding at tokens i32 [N], and the adjoint: gradients of rows [N, d] added
// up into a gradient of this rank's part of the table, in WideType. `table` is that part.
Tensor EmbedTokens(const ModelSpec& spec, const Tensor& table, const Tensor& tokens);
Tensor EmbeddingGradient(const ModelSpec& spec, const Tensor& rows, const Tensor& tokens);

// The part of a vocabulary that this rank has the head of.
VocabularyPart PartOfVocabulary(const ModelSpec& spec);

// The parameters of the whole model, from what the ranks hold, on the first of them; the others get
// an empty set. One tensor at a time is held twice. Where the model is not split: `own`. All ranks
// of the split call it. Throws TensorError.
ParameterSet GatherParameters(const ModelSpec& spec, const ParameterSet& own);

}  // namespace mnemo
