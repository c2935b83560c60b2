#include "src/model/tensor_split.h"

#include "src/core/backend.h"
#include "src/core/ops.h"
#include "src/core/peers.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

bool IsSplit(const ModelSpec& spec) { return spec.split.ranks > 1; }

// Which tokens this rank has the embedding of.
struct OwnTokens {
  OwnTokens(const ModelSpec& spec, const Tensor& tokens, const Tensor& like) {
    const int64_t first = spec.split.Begin(spec.vocabulary);
    const int64_t count = spec.split.Count(spec.vocabulary);
    std::vector<int32_t> ids = tokens.ToInts();
    std::vector<double> held(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      Require(ids[i] >= 0 && ids[i] < spec.vocabulary, "token {} in a vocabulary of {}", ids[i],
              spec.vocabulary);
      held[i] = ids[i] >= first && ids[i] < first + count ? 1 : 0;
      ids[i] = held[i] > 0 ? static_cast<int32_t>(ids[i] - first) : 0;
    }
    rows = Tensor::FromHost(ids, tokens.shape(), tokens.device());
    mask = Tensor::FromHost(held, {tokens.elements(), 1}, like.dtype(), like.device());
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
  const OwnTokens own(spec, tokens, table);
  const Var rows = own.Only(GatherRows(Var(table), own.rows).value());
  return SumOfParts(spec, rows).value();
}

Tensor EmbeddingGradient(const ModelSpec& spec, const Tensor& rows, const Tensor& tokens) {
  if (!IsSplit(spec)) return ScatterAddRows(Var(rows), tokens, spec.vocabulary).value();
  const OwnTokens own(spec, tokens, rows);
  return ScatterAddRows(own.Only(rows), own.rows, spec.split.Count(spec.vocabulary)).value();
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
  if (spec.split.rank == 0) result = ParameterSet::Zeros(whole, dtype, device);
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
