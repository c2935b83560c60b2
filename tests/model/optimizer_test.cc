#include "src/model/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "src/core/random.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

OptimizerOptions TestOptions() {
  OptimizerOptions options;
  options.learning_rate = 0.02;
  options.warmup_steps = 3;
  options.decay_steps = 12;
  options.weight_decay = 0.3;
  options.clip_norm = 0;
  return options;
}

// A matrix that decays and a vector that does not.
ParameterSet MakeSet(DType dtype, uint64_t seed) {
  std::vector<ParameterInfo> infos = {{"layers.0.a", {5, 7}, 0, true}, {"norm", {3}, -1, false}};
  std::vector<Tensor> values;
  for (const ParameterInfo& info : infos) {
    const RandomStream random(seed, 0, info.name);
    std::vector<double> host;
    for (int64_t i = 0; i < ElementCount(info.shape); ++i) host.push_back(random.Normal(i));
    values.push_back(Tensor::FromHost(std::span<const double>(host), info.shape, dtype));
  }
  return ParameterSet(infos, values);
}

// AdamW, written down once more as plainly as can be.
struct PlainAdamW {
  std::vector<std::vector<double>> p, m, v;
  int t = 0;

  explicit PlainAdamW(const ParameterSet& set) {
    for (const Tensor& value : set.values()) {
      p.push_back(value.ToDoubles());
      m.emplace_back(p.back().size(), 0.0);
      v.emplace_back(p.back().size(), 0.0);
    }
  }

  void Step(const OptimizerOptions& o, double rate, double scale, const ParameterSet& gradients) {
    ++t;
    for (size_t k = 0; k < p.size(); ++k) {
      const std::vector<double> g = gradients[k].ToDoubles();
      const double decay = gradients.info(k).decay ? o.weight_decay : 0;
      for (size_t i = 0; i < g.size(); ++i) {
        const double gi = g[i] * scale;
        m[k][i] = o.beta1 * m[k][i] + (1 - o.beta1) * gi;
        v[k][i] = o.beta2 * v[k][i] + (1 - o.beta2) * gi * gi;
        const double m_hat = m[k][i] / (1 - std::pow(o.beta1, t));
        const double v_hat = v[k][i] / (1 - std::pow(o.beta2, t));
        p[k][i] -= rate * (m_hat / (std::sqrt(v_hat) + o.epsilon) + decay * p[k][i]);
      }
    }
  }
};

void ExpectNear(const ParameterSet& got, const PlainAdamW& want, double tolerance) {
  for (size_t k = 0; k < got.size(); ++k) {
    const std::vector<double> values = got[k].ToDoubles();
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(values[i], want.p[k][i], tolerance * (1 + std::abs(want.p[k][i])))
          << got.info(k).name << "[" << i << "]";
    }
  }
}

class OptimizerDTypeTest : public testing::TestWithParam<DType> {
 protected:
  // Each step rounds a handful of times; errors of the steps add up.
  double Tolerance(int steps) const {
    const bool f64 = GetParam() == DType::kF64;
    const double epsilon =
        f64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
    return 8 * steps * epsilon;
  }
};

TEST_P(OptimizerDTypeTest, FollowsThePlainLoop) {
  constexpr int kSteps = 15;
  ParameterSet parameters = MakeSet(GetParam(), 1);
  PlainAdamW plain(parameters);
  const OptimizerOptions options = TestOptions();
  Optimizer optimizer(options, parameters);
  for (int step = 1; step <= kSteps; ++step) {
    const ParameterSet gradients = MakeSet(GetParam(), 100 + step);
    const auto result = optimizer.Step(step, 1.0, MeasureGradients(gradients), gradients);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->learning_rate, LearningRate(options, step));
    plain.Step(options, LearningRate(options, step), 1, gradients);
  }
  EXPECT_EQ(optimizer.counters().updates, kSteps);
  ExpectNear(parameters, plain, Tolerance(kSteps));
}

TEST_P(OptimizerDTypeTest, ClipsByOneNormOverAllGradients) {
  ParameterSet parameters = MakeSet(GetParam(), 1);
  PlainAdamW plain(parameters);
  OptimizerOptions options = TestOptions();
  options.clip_norm = 0.5;
  Optimizer optimizer(options, parameters);
  for (int step = 1; step <= 4; ++step) {
    const ParameterSet gradients = MakeSet(GetParam(), 100 + step);
    double squares = 0;
    for (const Tensor& g : gradients.values()) {
      for (double x : g.ToDoubles()) squares += x * x;
    }
    const auto result = optimizer.Step(step, 1.0, MeasureGradients(gradients), gradients);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->gradient_norm, std::sqrt(squares), 1e-12 * squares);
    ASSERT_GT(result->gradient_norm, options.clip_norm);
    plain.Step(options, LearningRate(options, step), options.clip_norm / std::sqrt(squares),
               gradients);
  }
  ExpectNear(parameters, plain, Tolerance(4));
}

INSTANTIATE_TEST_SUITE_P(DTypes, OptimizerDTypeTest, testing::Values(DType::kF32, DType::kF64));

// Ranks that hold a shard each do together what one optimizer does alone, bit for bit.
TEST_P(OptimizerDTypeTest, ShardsTogetherAreTheWhole) {
  for (int ranks : {2, 3, 7}) {
    ParameterSet whole = MakeSet(GetParam(), 1), sharded = MakeSet(GetParam(), 1);
    Optimizer one(TestOptions(), whole);
    std::vector<Optimizer> many;
    for (ParameterShard& shard : CutParameters(sharded, ranks)) {
      many.emplace_back(TestOptions(), sharded, std::move(shard));
    }
    for (int step = 1; step <= 3; ++step) {
      const ParameterSet gradients = MakeSet(GetParam(), 100 + step);
      const GradientNorm norm = MeasureGradients(gradients);
      double squared = 0;
      ASSERT_TRUE(one.Step(step, 1.0, norm, gradients).ok());
      for (Optimizer& optimizer : many) {
        squared += MeasureGradients(gradients, optimizer.shard()).squared;
        ASSERT_TRUE(optimizer.Step(step, 1.0, norm, gradients).ok());
      }
      EXPECT_NEAR(squared, norm.squared, 1e-12 * norm.squared);
    }
    EXPECT_EQ(whole.flat().ToDoubles(), sharded.flat().ToDoubles()) << ranks;
  }
}

TEST(LearningRateTest, WarmsUpThenFollowsACosine) {
  OptimizerOptions options;
  options.learning_rate = 2;
  options.minimum_ratio = 0.25;
  options.warmup_steps = 4;
  options.decay_steps = 14;
  EXPECT_DOUBLE_EQ(LearningRate(options, 1), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(options, 2), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(options, 4), 2.0);
  EXPECT_NEAR(LearningRate(options, 9), 2 * (0.25 + 0.75 * 0.5), 1e-15);  // half way
  EXPECT_LT(LearningRate(options, 10), LearningRate(options, 9));
  EXPECT_DOUBLE_EQ(LearningRate(options, 14), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(options, 1000), 0.5);
}

TEST(LearningRateTest, WithoutWarmUpBeginsNearThePeak) {
  OptimizerOptions options;
  options.learning_rate = 1;
  options.decay_steps = 100;
  EXPECT_GT(LearningRate(options, 1), 0.999);
  options.warmup_steps = 100;  // all warm-up, no decay
  EXPECT_DOUBLE_EQ(LearningRate(options, 50), 0.5);
}

class NonFiniteTest : public testing::Test {
 protected:
  static Tensor Poisoned(const Tensor& like, double poison) {
    std::vector<double> host = like.ToDoubles();
    host.back() = poison;
    return Tensor::FromHost(std::span<const double>(host), like.shape(), like.dtype());
  }
};

TEST_F(NonFiniteTest, SkipsAndCountsAndStartsCountingAnew) {
  for (double poison : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    ParameterSet parameters = MakeSet(DType::kF32, 1);
    Optimizer optimizer(TestOptions(), parameters);
    const ParameterSet good = MakeSet(DType::kF32, 2);
    ParameterSet bad = MakeSet(DType::kF32, 2);
    bad.Set(1, Poisoned(bad[1], poison));
    const std::vector<double> before = parameters[0].ToDoubles();
    for (int step = 1; step <= 4; ++step) {
      const auto result = optimizer.Step(step, 1.0, MeasureGradients(bad), bad);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(result->skipped);
    }
    EXPECT_EQ(parameters[0].ToDoubles(), before);
    EXPECT_EQ(optimizer.counters().updates, 0);
    for (const StateTensor& state : optimizer.State()) {
      for (double x : state.tensor.ToDoubles()) EXPECT_EQ(x, 0) << state.name;
    }
    ASSERT_TRUE(optimizer.Step(5, 1.0, MeasureGradients(good), good).ok());
    EXPECT_NE(parameters[0].ToDoubles(), before);
    EXPECT_EQ(optimizer.counters().bad_in_a_row, 0);
    EXPECT_EQ(optimizer.counters().skipped, 4);
  }
}

TEST_F(NonFiniteTest, StopsAfterFiveInARowNamingTheFirstBadTensor) {
  ParameterSet parameters = MakeSet(DType::kF32, 1);
  Optimizer optimizer(TestOptions(), parameters);
  ParameterSet bad = MakeSet(DType::kF32, 2);
  bad.Set(1, Poisoned(bad[1], std::nan("")));
  for (int step = 1; step <= 4; ++step) {
    ASSERT_TRUE(optimizer.Step(step, 1.0, MeasureGradients(bad), bad).ok());
  }
  const auto result = optimizer.Step(5, 1.0, MeasureGradients(bad), bad);
  ASSERT_EQ(result.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("step 5"));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("gradient of norm"));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("5 steps in a row"));
}

TEST_F(NonFiniteTest, ALossThatIsNotFiniteCountsAsWell) {
  ParameterSet parameters = MakeSet(DType::kF64, 1);
  OptimizerOptions options = TestOptions();
  options.max_bad_steps = 1;
  Optimizer optimizer(options, parameters);
  const ParameterSet good = MakeSet(DType::kF64, 2);
  const auto result = optimizer.Step(1, std::nan(""), MeasureGradients(good), good);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("the loss is nan"));
}

TEST(OptimizerTest, ReadsTheConfiguration) {
  v1::TrainConfig train;
  v1::OptimizerConfig& config = *train.mutable_optimizer();
  config.set_learning_rate(0.5);
  config.set_minimum_ratio(0);
  config.set_warmup_steps(7);
  config.set_decay_steps(9);
  config.set_beta1(0.1);
  config.set_beta2(0.2);
  config.set_epsilon(0.3);
  config.set_weight_decay(0.4);
  config.set_clip_norm(0.6);
  config.set_max_bad_steps(3);
  const OptimizerOptions options = MakeOptimizerOptions(train);
  EXPECT_EQ(options.learning_rate, 0.5);
  EXPECT_EQ(options.minimum_ratio, 0);
  EXPECT_EQ(options.warmup_steps, 7);
  EXPECT_EQ(options.decay_steps, 9);
  EXPECT_EQ(options.beta1, 0.1);
  EXPECT_EQ(options.beta2, 0.2);
  EXPECT_EQ(options.epsilon, 0.3);
  EXPECT_EQ(options.weight_decay, 0.4);
  EXPECT_EQ(options.clip_norm, 0.6);
  EXPECT_EQ(options.max_bad_steps, 3);
}

}  // namespace
}  // namespace mnemo
