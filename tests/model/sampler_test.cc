#include "src/model/sampler.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "src/core/status.h"

namespace mnemo {
namespace {

const std::vector<double> kLogits = {std::log(0.1), std::log(0.4), std::log(0.2), std::log(0.3)};

std::map<int32_t, double> Frequencies(const SamplingOptions& options, int count = 20000) {
  std::map<int32_t, double> frequencies;
  for (int i = 0; i < count; ++i) frequencies[SampleToken(kLogits, options, i)] += 1.0 / count;
  return frequencies;
}

// Five standard deviations of a frequency near one half.
constexpr double kSpread = 5 * 0.5 / 141;  // sqrt(20000) = 141

TEST(SamplerTest, TemperatureZeroTakesTheLikeliestAndTheFirstOfEqualOnes) {
  EXPECT_EQ(SampleToken(kLogits, {.temperature = 0}, 7), 1);
  const std::vector<double> equal = {0, 3, 3};
  EXPECT_EQ(SampleToken(equal, {.temperature = 0}, 0), 1);
  EXPECT_EQ(SampleToken(equal, {.temperature = 1, .top_k = 1}, 0), 1);
}

TEST(SamplerTest, FrequenciesFollowTheSoftmax) {
  const auto frequencies = Frequencies({.seed = 1});
  for (int32_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(frequencies.at(i), std::exp(kLogits[i]), kSpread) << i;
  }
}

TEST(SamplerTest, TemperatureSharpens) {
  double sum = 0;
  for (const double logit : kLogits) sum += std::exp(2 * logit);
  const auto frequencies = Frequencies({.temperature = 0.5, .seed = 2});
  EXPECT_NEAR(frequencies.at(1), std::exp(2 * kLogits[1]) / sum, kSpread);
}

TEST(SamplerTest, TopKKeepsTheLikeliest) {
  const auto frequencies = Frequencies({.top_k = 2, .seed = 3});
  ASSERT_EQ(frequencies.size(), 2u);
  EXPECT_NEAR(frequencies.at(1), 0.4 / 0.7, kSpread);
  EXPECT_NEAR(frequencies.at(3), 0.3 / 0.7, kSpread);
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachIt) {
  const auto frequencies = Frequencies({.top_p = 0.75, .seed = 4});
  ASSERT_EQ(frequencies.size(), 3u);
  EXPECT_NEAR(frequencies.at(2), 0.2 / 0.9, kSpread);
  EXPECT_EQ(Frequencies({.top_p = 0.3, .seed = 5}).size(), 1u);
  // After top-k: 0.4 / 0.7 alone reaches 0.5.
  EXPECT_EQ(Frequencies({.top_k = 2, .top_p = 0.5, .seed = 6}).size(), 1u);
}

TEST(SamplerTest, AChoiceIsAPureFunctionOfSeedAndIndex) {
  EXPECT_EQ(SampleToken(kLogits, {.seed = 9}, 5), SampleToken(kLogits, {.seed = 9}, 5));
  EXPECT_EQ(Frequencies({.seed = 9}), Frequencies({.seed = 9}));
  EXPECT_NE(Frequencies({.seed = 9}), Frequencies({.seed = 10}));
}

TEST(SamplerTest, LogitsThatAreNotNumbersAreAnError) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THROW(SampleToken(std::vector<double>{0, std::nan("")}, {}, 0), TensorError);
  EXPECT_THROW(SampleToken(std::vector<double>{0, infinity}, {}, 0), TensorError);
  EXPECT_THROW(SampleToken(std::vector<double>{-infinity, -infinity}, {}, 0), TensorError);
  EXPECT_EQ(SampleToken(std::vector<double>{-infinity, 0}, {}, 0), 1);
}

}  // namespace
}  // namespace mnemo
