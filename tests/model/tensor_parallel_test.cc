// The blocks in parts, against the whole model on one rank: losses and gradients of all parameters,
// on every rank, for 2 and 4 tp ranks with and without sp; as threads, or as processes.
#include <gtest/gtest.h>

#include <map>

#include "src/core/ops.h"
#include "src/model/sequence_runner.h"
#include "src/model/tensor_split.h"
#include "tests/core/mirror_peers.h"
#include "tests/model/wavefront_ranks.h"
#include "tests/parallel/rank_worlds.h"

namespace mnemo::testing {
namespace {

// A few thousand f64 terms of order one, summed in another order.
constexpr double kTolerance = 1e-10;

// Four heads, so that four ranks have one each; a vocabulary of 11, which neither 2 nor 4 divide.
std::vector<TinyModel> ModelsOfFourHeads() {
  std::vector<TinyModel> models;
  for (const TinyModel& model : AllTinyModels()) {
    ModelSpec spec = model.spec;
    spec.width = 16;
    spec.heads = spec.rule.head_dim = 4;
    spec.rule.hidden = 6;
    spec.mlp_hidden = 12;
    models.push_back(MakeTinyModel(model.name, spec));
  }
  return models;
}

std::vector<Mesh> MeshesOf(int ranks, bool slices) {
  if (ranks == 2) return {{1, 1, 2}};
  if (ranks != 4) return {};
  return slices ? std::vector<Mesh>{{1, 1, 4}, {1, 2, 2}} : std::vector<Mesh>{{1, 1, 4}};
}

ParameterSet PartsOf(const ParameterSet& whole, const ModelSpec& split) {
  ParameterSet parts = ParameterSet::Zeros(split, whole.flat().dtype());
  for (size_t i = 0; i < parts.size(); ++i) parts.Set(i, PartOf(whole[i], parts.info(i)));
  return parts;
}

class TensorParallel : public ::testing::TestWithParam<int> {
 protected:
  TensorParallel() : model_(ModelsOfFourHeads()[GetParam()]) {
    const int64_t step = model_.spec.alignment() == 1 ? 4 : model_.spec.alignment();
    options_.slices.assign(model_.spec.full_attention() ? 1 : 4, step);
  }
  int64_t length() const {
    return options_.slices[0] * static_cast<int64_t>(options_.slices.size());
  }
  ModelSpec Split(Ranks& ranks) const {
    return SplitSpec(model_.spec, {ranks.mesh().tp, ranks.position().tp, ranks.peers()});
  }
  void Compare(Ranks& ranks, const std::vector<std::vector<int>>& tokens,
               const StepResult& whole) const {
    const ModelSpec spec = Split(ranks);
    ExpectSameAsWhole(ranks, spec, PartsOf(model_.parameters, spec), tokens, options_, whole,
                      {.losses = kTolerance, .gradients = kTolerance});
  }

  const TinyModel model_;
  StepOptions options_;
};

TEST_P(TensorParallel, PartsComputeWhatTheWholeDoes) {
  const auto tokens = RandomTokens(model_.spec, 2, length());  // two micro-batches
  const StepResult whole = RunStep(model_.spec, model_.parameters, tokens, options_);
  ForEachWorld([&](Transport& transport) {
    for (const Mesh& mesh : MeshesOf(transport.size(), options_.slices.size() > 1)) {
      SCOPED_TRACE(ToString(mesh));
      const auto ranks = Ranks::Create(transport, mesh, kPatience).value();
      Compare(*ranks, tokens, whole);
    }
  });
}

TEST_P(TensorParallel, DocumentsMayBeginInTheMiddle) {
  if (options_.slices.size() == 1) options_.slices[0] *= 4;
  const int64_t step = length() / 4;
  options_.batch = 2;
  options_.starts = {step, 3 * step};
  const auto tokens = RandomTokens(model_.spec, 2, length());
  const StepResult whole = RunStep(model_.spec, model_.parameters, tokens, options_);
  options_.policy = Rematerialization::kSlices;
  ForEachWorld([&](Transport& transport) {
    if (transport.size() != 2) return;
    const auto ranks = Ranks::Create(transport, {1, 1, 2}, kPatience).value();
    Compare(*ranks, tokens, whole);
  });
}

// Losses of the slices that this rank holds of a sequence, forward only.
std::map<int64_t, std::vector<double>> LossesOfSlices(Ranks& ranks, const ModelSpec& spec,
                                                      const ParameterSet& parameters,
                                                      TokenSource& source, int64_t slices) {
  const ScheduleShape shape{slices, ranks.mesh().sp, spec.layers, 1};
  WavefrontOptions options;
  options.vocabulary_tile = 4;
  UnitRunner runner(spec, parameters, source, spec.layers, options, nullptr);
  const std::unique_ptr<Relay> relay = ranks.MakeRelay(shape);
  EXPECT_OK(RunForward(shape, ranks.position().sp, *relay, runner));
  std::map<int64_t, std::vector<double>> losses;
  for (int64_t s = ranks.position().sp; s < slices; s += shape.ranks) {
    losses[s] = runner.Losses(0, s).ToDoubles();
  }
  EXPECT_OK(relay->Drain());
  return losses;
}

// At the same tp, no bit depends on which rank holds a slice.
TEST_P(TensorParallel, SlicesMayLieOnOneRankOrOnTwo) {
  const int64_t slices = static_cast<int64_t>(options_.slices.size());
  if (slices == 1) return;  // full attention
  const auto tokens = RandomTokens(model_.spec, 1, length());
  ForEachWorld([&](Transport& transport) {
    if (transport.size() != 4) return;
    std::map<int64_t, std::vector<double>> all;
    for (const Mesh& mesh : {Mesh{2, 1, 2}, Mesh{1, 2, 2}}) {
      const auto ranks = Ranks::Create(transport, mesh, kPatience).value();
      const ModelSpec spec = Split(*ranks);
      const ParameterSet parameters = PartsOf(model_.parameters, spec);
      FixedSource source(spec, tokens, 1, options_.slices);
      const auto losses = LossesOfSlices(*ranks, spec, parameters, source, slices);
      if (mesh.sp == 1) all = losses;
      ASSERT_EQ(losses.size(), static_cast<size_t>(slices / mesh.sp));
      for (const auto& [slice, values] : losses) EXPECT_EQ(values, all[slice]) << slice;
    }
  });
}

// Forward only, as held-out text is evaluated; pieces end inside chunks and segments.
TEST_P(TensorParallel, SequencesRunForwardInParts) {
  const std::vector<int> sequence = RandomTokens(model_.spec, 1, 29)[0];
  const std::vector<int64_t> pieces = {9, 1, 8, 11};
  const auto losses = [&](const ModelSpec& spec, const ParameterSet& parameters) {
    SequenceRunner runner(spec, parameters);
    std::vector<double> all;
    int64_t begin = 0;
    for (const int64_t n : pieces) {
      const std::vector<int32_t> tokens(sequence.begin() + begin, sequence.begin() + begin + n);
      const std::vector<int32_t> targets(sequence.begin() + begin + 1,
                                         sequence.begin() + begin + n + 1);
      const Tensor rows = runner.Run(Tensor::FromHost(tokens, {n}));
      for (const double x : runner.Losses(rows, Tensor::FromHost(targets, {n}), 4).ToDoubles()) {
        all.push_back(x);
      }
      begin += n;
    }
    return all;
  };
  const std::vector<double> whole = losses(model_.spec, model_.parameters);
  ForEachWorld([&](Transport& transport) {
    for (const Mesh& mesh : MeshesOf(transport.size(), false)) {
      const auto ranks = Ranks::Create(transport, mesh, kPatience).value();
      const ModelSpec spec = Split(*ranks);
      const std::vector<double> parts = losses(spec, PartsOf(model_.parameters, spec));
      ASSERT_EQ(parts.size(), whole.size());
      for (size_t t = 0; t < whole.size(); ++t) EXPECT_NEAR(parts[t], whole[t], kTolerance) << t;
    }
  });
}

TEST_P(TensorParallel, PartsBeginAsThoseOfTheWholeAndMakeItUp) {
  const ParameterSet whole = ParameterSet::Initialize(model_.spec, 5, DType::kF32);
  MirrorPeers unused(1);
  for (const int ranks : {1, 2, 4}) {
    int64_t split = 0, replicated = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const ModelSpec spec = SplitSpec(model_.spec, {ranks, rank, &unused});
      const ParameterSet parts = ParameterSet::Initialize(spec, 5, DType::kF32);
      EXPECT_EQ(parts.flat().ToDoubles(), PartsOf(whole, spec).flat().ToDoubles());
      replicated = 0;
      for (size_t i = 0; i < parts.size(); ++i) {
        EXPECT_EQ(WholeShape(parts.info(i)), whole[i].shape()) << parts.info(i).name;
        (parts.info(i).split < 0 ? replicated : split) += parts[i].elements();
      }
      EXPECT_EQ(CountParameters(spec), CountParameters(model_.spec));
    }
    EXPECT_EQ(split + replicated, CountParameters(model_.spec));
  }
  ForEachWorld([&](Transport& transport) {
    for (const Mesh& mesh : MeshesOf(transport.size(), false)) {
      const auto ranks = Ranks::Create(transport, mesh, kPatience).value();
      const ModelSpec spec = Split(*ranks);
      const ParameterSet own = ParameterSet::Initialize(spec, 5, DType::kF32);
      const ParameterSet gathered = GatherParameters(spec, own);
      if (ranks->position().tp > 0) {
        EXPECT_EQ(gathered.size(), 0u);
      } else {
        EXPECT_EQ(gathered.flat().ToDoubles(), whole.flat().ToDoubles());
      }
    }
  });
}

std::vector<int> AllModels() {
  std::vector<int> list(ModelsOfFourHeads().size());
  for (size_t i = 0; i < list.size(); ++i) list[i] = static_cast<int>(i);
  return list;
}

INSTANTIATE_TEST_SUITE_P(Models, TensorParallel, ::testing::ValuesIn(AllModels()),
                         [](const auto& info) { return TestNameOf(info.param); });

// The derivatives of the ops between ranks, each of which has a weight of its own, against
// differences that move one number on one rank.
TEST(TensorParallelOps, DerivativesMatchDifferences) {
  constexpr int64_t n = 3;
  ForEachWorld(
      [&](Transport& transport) {
        const int size = transport.size();
        const auto ranks = Ranks::Create(transport, {1, 1, size}, kPatience).value();
        const auto start = [&](double base) {
          return std::vector<double>{base, base + 0.4, base - 0.7};
        };
        const std::vector<double> x0 = start(0.3), w0 = start(0.5 + 0.2 * ranks->rank());
        const auto run = [&](const Var& x, const Var& w) {
          const Var part = Tanh(Mul(SpreadToPeers(x, *ranks->peers()), w));
          return Mul(x, SumOverPeers(part, *ranks->peers()));
        };
        const auto value = [&](const std::vector<double>& x, const std::vector<double>& w) {
          return SumAll(run(Var(Tensor::FromHost(x, {n}, DType::kF64)),
                            Var(Tensor::FromHost(w, {n}, DType::kF64))))
              .value()
              .Item();
        };
        Tape tape;
        const Var x = tape.Leaf(Tensor::FromHost(x0, {n}, DType::kF64));
        const Var w = tape.Leaf(Tensor::FromHost(w0, {n}, DType::kF64));
        const Var outputs[] = {run(x, w)}, wrt[] = {x, w};
        const Tensor ones[] = {Tensor::Full({n}, 1, DType::kF64)};
        const std::vector<Tensor> gradients = tape.Gradient(outputs, ones, wrt);
        const double h = 1e-5;
        // Every rank evaluates every difference; `moves`: whether its own number is the one moved.
        const auto difference = [&](bool of_x, int64_t i, bool moves) {
          std::vector<double> up[] = {x0, w0}, down[] = {x0, w0};
          if (moves) {
            up[of_x ? 0 : 1][i] += h;
            down[of_x ? 0 : 1][i] -= h;
          }
          return (value(up[0], up[1]) - value(down[0], down[1])) / (2 * h);
        };
        for (int64_t i = 0; i < n; ++i) {
          EXPECT_NEAR(gradients[0].ToDoubles()[i], difference(true, i, true), 1e-8);
          for (int owner = 0; owner < size; ++owner) {
            const double slope = difference(false, i, ranks->rank() == owner);
            if (ranks->rank() == owner) {
              EXPECT_NEAR(gradients[1].ToDoubles()[i], slope, 1e-8);
            }
          }
        }
      },
      2);
}

TEST(TensorSplitCheck, NamesAllThatDoesNotSuit) {
  ModelSpec spec = TinySpec(BlockKind::kMag);  // 2 heads, MLP 10, vocabulary 11
  EXPECT_OK(CheckTensorSplit(spec, 1));
  EXPECT_OK(CheckTensorSplit(spec, 2));
  EXPECT_EQ(CheckTensorSplit(spec, 4).message(),
            "parallel.tp = 4: must divide model.heads and model.mlp_hidden, but model.heads = 2, "
            "model.mlp_hidden = 10; take another tp, or another model");
  EXPECT_EQ(CheckTensorSplit(spec, 5).message(),
            "parallel.tp = 5: must divide model.heads and model.mlp_hidden, but model.heads = 2; "
            "take another tp, or another model");
  spec.vocabulary = 1;
  EXPECT_EQ(CheckTensorSplit(spec, 2).message(),
            "parallel.tp = 2: must be at most model.vocabulary = 1");
  EXPECT_FALSE(CheckTensorSplit(spec, 0).ok());
}

}  // namespace
}  // namespace mnemo::testing
