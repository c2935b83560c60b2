#include "src/model/tensor_split.h"

#include "src/core/backend.h"
#include "src/core/ops.h"
#include "src/core/peers.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

bool IsSplit(const ModelSpec& spec) { return spec.split.ranks > 1; }

void CheckTokens(const ModelSpec& spec, const Tensor& tokens) {
  if (tokens.device().type != DeviceType::kCpu) return;  // reading them would wait
  for (const int32_t id : tokens.ToInts()) {
    Require(id >= 0 && id < spec.vocabulary, "token {} in a vocabulary of {}", id, spec.vocabulary);
  }
}

// Which tokens this rank has the embedding of, found on their device. Ids are exact in f32
// (cross_entropy.cc bounds the vocabulary).
struct OwnTokens {
  OwnTokens(const ModelSpec& spec, const Tensor& tokens, DType dtype) {
    CheckTokens(spec, tokens);
    const double first = static_cast<double>(spec.split.Begin(spec.vocabulary));
    const double count = static_cast<double>(spec.split.Count(spec.vocabulary));
    const Var index = Affine(Cast(Var(tokens), DType::kF32), 1, -first);
    const Var held = Mul(Step(Affine(index, 1, 0.5)), Step(Affine(index, -1, count - 0.5)));
    rows = Mul(index, held).value().To(DType::kI32);
    mask = Reshape(Cast(held, dtype), {tokens.elements(), 1}).value();
  }
  // x where the token is held, else 0.
  Var Only(const Tensor& x) const {
    return Where(mask, Var(x), Var(Tensor::Zeros({}, x.dtype(), x.device())));
  }

  Tensor rows;  // of the part of the table; the first one for tokens that are not held
  Tensor mask;  // [N, 1]
};

}  // namespace

absl::Status CheckTensorSplit(const ModelSpec& whole, int ranks) {
  std::string problems;
  const auto divides = [&](const char* field, int64_t count) {
    if (count % ranks == 0) return;
    problems += fmt::format("{}{} = {}", problems.empty() ? "" : ", ", field, count);
  };
  if (ranks < 1) return InvalidArgument("parallel.tp = {}: at least 1", ranks);
  divides("model.heads", whole.heads);
  divides("model.mlp_hidden", whole.mlp_hidden);
  if (!problems.empty()) {
    return InvalidArgument(
        "parallel.tp = {}: must divide model.heads and model.mlp_hidden, but {}; take another tp, "
        "or another model",
        ranks, problems);
  }
  if (whole.vocabulary < ranks) {
    return InvalidArgument("parallel.tp = {}: must be at most model.vocabulary = {}", ranks,
                           whole.vocabulary);
  }
  return absl::OkStatus();
}

ModelSpec SplitSpec(ModelSpec whole, const TensorSplit& split) {
  MNEMO_CHECK(whole.split.ranks == 1 && CheckTensorSplit(whole, split.ranks).ok());
  MNEMO_CHECK(split.rank >= 0 && split.rank < split.ranks);
  MNEMO_CHECK(split.ranks == 1 || split.peers != nullptr);
  whole.split = split;
  return whole;
}

Var IntoParts(const ModelSpec& spec, const Var& x) {
  return IsSplit(spec) && x.defined() ? SpreadToPeers(x, *spec.split.peers) : x;
}

Var SumOfParts(const ModelSpec& spec, const Var& x) {
  return IsSplit(spec) && x.defined() ? SumOverPeers(x, *spec.split.peers) : x;
}

Var GatherHeads(const ModelSpec& spec, const Var& x) {
  if (!IsSplit(spec)) return x;
  // Zeros in the columns of the others, so that adding up gathers them.
  const Var columns = PadSlice(x, -1, spec.split.Begin(spec.width), spec.width);
  return IntoParts(spec, SumOfParts(spec, columns));
}

Tensor EmbedTokens(const ModelSpec& spec, const Tensor& table, const Tensor& tokens) {
  if (!IsSplit(spec)) return GatherRows(Var(table), tokens).value();
  const OwnTokens own(spec, tokens, table.dtype());
  const Var rows = own.Only(GatherRows(Var(table), own.rows).value());
  return SumOfParts(spec, rows).value();
}

Tensor EmbeddingGradient(const ModelSpec& spec, const Tensor& rows, const Tensor& tokens) {
  // Many rows may meet at one token: they are added up in f32.
  const Tensor wide = rows.To(WideType(rows.dtype()));
  if (!IsSplit(spec)) return ScatterAddRows(Var(wide), tokens, spec.vocabulary).value();
  const OwnTokens own(spec, tokens, wide.dtype());
  return ScatterAddRows(own.Only(wide), own.rows, spec.split.Count(spec.vocabulary)).value();
}

VocabularyPart PartOfVocabulary(const ModelSpec& spec) {
  return {spec.split.Begin(spec.vocabulary), spec.vocabulary, spec.split.peers};
}

ParameterSet GatherParameters(const ModelSpec& spec, const ParameterSet& own) {
  if (!IsSplit(spec)) return own;
  ModelSpec whole = spec;
  whole.split = {};
  const DType dtype = own.flat().dtype();
  const Device device = own.flat().device();
  ParameterSet result;
  if (spec.split.rank == 0) {
    result = ParameterSet::Zeros(whole, dtype, device);
    result.AddComputeCopies(own.compute_dtype());
  }
  for (size_t i = 0; i < own.size(); ++i) {
    const ParameterInfo& info = own.info(i);
    Tensor sum = own[i];
    if (info.split >= 0) {
      sum = Tensor::Zeros(WholeShape(info), dtype, device);
      Backend::For(device).Copy(own[i], PartOf(sum, info));
      spec.split.peers->Sum(sum);
    }
    if (spec.split.rank == 0) result.Set(i, sum);
  }
  return result;
}

}  // namespace mnemo
