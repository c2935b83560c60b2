// Attention as it is cut into calls of cuDNN, with plain loops in the place of cuDNN, against the
// composed definition in f64: values and gradients, whatever the cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "src/core/cuda/attention.h"
#include "tests/core/gradient_check.h"

namespace mnemo::cuda {
namespace {

using testing::Uniform;

// bf16: the upper half of an f32.
float Load(const void* base, int64_t at) {
  return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(base)[at]} << 16);
}

// To the nearest, ties to even.
void Store(void* base, int64_t at, double value) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  static_cast<uint16_t*>(base)[at] =
      static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

class PlainCalls final : public AttentionCalls {
 public:
  struct Counts {
    int64_t forward = 0, backward = 0, merges = 0;
    int64_t scores = 0;  // at most, of a call
  } counts;

  void Forward(Device, const SdpaShape& s, const SdpaForwardCall& call) override {
    ++counts.forward;
    EachQuery(s, [&](int64_t b, int64_t h, int64_t i, int64_t stats, auto keys) {
      std::vector<double> read(s.head_dim, 0.0);
      double sum = 0;
      for (int64_t j = keys.first; j < keys.second; ++j) {
        const double weight = std::exp(Score(s, call.q, call.k, b, h, i, j));
        sum += weight;
        for (int64_t f = 0; f < s.head_dim; ++f) {
          read[f] += weight * Load(call.v, At(s.v, b, h, j) + f);
        }
      }
      for (int64_t f = 0; f < s.head_dim; ++f) Store(call.o, At(s.o, b, h, i) + f, read[f] / sum);
      call.stats[stats] = static_cast<float>(std::log(sum));
    });
  }

  void Backward(Device, const SdpaShape& s, const SdpaBackwardCall& call) override {
    ++counts.backward;
    counts.scores = std::max(counts.scores, s.batch * s.heads * SdpaScoreBytes(s.queries, s.keys));
    const int64_t rows = s.batch * s.heads * s.keys;
    std::vector<double> grad_k(rows * s.head_dim, 0.0), grad_v(rows * s.head_dim, 0.0);
    EachQuery(s, [&](int64_t b, int64_t h, int64_t i, int64_t stats, auto keys) {
      std::vector<double> grad_q(s.head_dim, 0.0);
      const auto product = [&](const void* x, const SdpaStrides& strides, int64_t row) {
        double sum = 0;
        for (int64_t f = 0; f < s.head_dim; ++f) {
          sum += Load(call.grad_o, At(s.grad_o, b, h, i) + f) * Load(x, At(strides, b, h, row) + f);
        }
        return sum;
      };
      const double own = product(call.o, s.o, i);
      for (int64_t j = keys.first; j < keys.second; ++j) {
        const double weight = std::exp(Score(s, call.q, call.k, b, h, i, j) - call.stats[stats]);
        const double score = weight * (product(call.v, s.v, j) - own) * Scale(s);
        const int64_t row = ((b * s.heads + h) * s.keys + j) * s.head_dim;
        for (int64_t f = 0; f < s.head_dim; ++f) {
          grad_q[f] += score * Load(call.k, At(s.k, b, h, j) + f);
          grad_k[row + f] += score * Load(call.q, At(s.q, b, h, i) + f);
          grad_v[row + f] += weight * Load(call.grad_o, At(s.grad_o, b, h, i) + f);
        }
      }
      for (int64_t f = 0; f < s.head_dim; ++f) {
        Store(call.grad_q, At(s.grad_q, b, h, i) + f, grad_q[f]);
      }
    });
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t b = row / s.keys / s.heads, h = row / s.keys % s.heads, j = row % s.keys;
      for (int64_t f = 0; f < s.head_dim; ++f) {
        Store(call.grad_k, At(s.grad_k, b, h, j) + f, grad_k[row * s.head_dim + f]);
        Store(call.grad_v, At(s.grad_v, b, h, j) + f, grad_v[row * s.head_dim + f]);
      }
    }
  }

  void Merge(Device, const MergeCall& call) override {
    ++counts.merges;
    const int64_t rows = call.batch * call.heads * call.tokens;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t b = row / call.tokens / call.heads, h = row / call.tokens % call.heads;
      const int64_t at = ((b * call.tokens + row % call.tokens) * call.heads + h) * call.head_dim;
      double sum = 0;
      for (int i = 0; i < call.count; ++i) sum += std::exp(call.stats[i][row]);
      for (int64_t f = 0; f < call.head_dim; ++f) {
        double merged = 0;
        for (int i = 0; i < call.count; ++i) {
          merged += std::exp(call.stats[i][row]) / sum * Load(call.outputs[i], at + f);
        }
        Store(call.merged, at + f, merged);
      }
      call.merged_stats[row] = static_cast<float>(std::log(sum));
    }
  }

 private:
  static int64_t At(const SdpaStrides& strides, int64_t b, int64_t h, int64_t row) {
    return b * strides[0] + h * strides[1] + row * strides[2];
  }
  static double Scale(const SdpaShape& s) { return 1 / std::sqrt(static_cast<double>(s.head_dim)); }
  static double Score(const SdpaShape& s, const void* q, const void* k, int64_t b, int64_t h,
                      int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t f = 0; f < s.head_dim; ++f) {
      sum += Load(q, At(s.q, b, h, i) + f) * Load(k, At(s.k, b, h, j) + f);
    }
    return sum * Scale(s);
  }

  template <typename F>
  static void EachQuery(const SdpaShape& s, const F& f) {
    for (int64_t row = 0; row < s.batch * s.heads * s.queries; ++row) {
      const int64_t b = row / s.queries / s.heads, h = row / s.queries % s.heads;
      const int64_t i = row % s.queries;
      std::pair<int64_t, int64_t> keys = {0, s.keys};
      if (s.causal) keys.second = s.keys - s.queries + i + 1;
      if (s.causal && s.window > 0) keys.first = std::max<int64_t>(0, keys.second - s.window);
      f(b, h, i, row, keys);
    }
  }
};

double Distance(const Tensor& got, const Tensor& want) {
  const std::vector<double> a = got.ToDoubles(), b = want.ToDoubles();
  EXPECT_EQ(a.size(), b.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(error / norm);
}

struct Case {
  int64_t batch, heads, queries, before, window;  // before: keys in the carry
  int64_t scores;                                 // bytes
  int64_t calls;                                  // of the backward pass
  bool deterministic = true;
};

// q, then k and v of what comes before, if anything does, and of the slice.
std::vector<Tensor> InputsOf(const Case& c) {
  std::vector<Tensor> inputs;
  const auto add = [&](int64_t rows) {
    const Shape shape{c.batch, c.heads, rows, 8};
    inputs.push_back(Uniform(shape, inputs.size() + 1, -2, 2).To(DType::kBF16));
  };
  add(c.queries);
  if (c.before > 0) add(c.before), add(c.before);
  add(c.queries), add(c.queries);
  return inputs;
}

AttentionAttributes AttributesOf(const Case& c) {
  AttentionAttributes attributes;
  attributes.mask = {.first_position = 5000, .window = c.window, .starts = {}};
  if (c.before > 0) attributes.run_positions.push_back(5000 - c.before);
  attributes.run_positions.push_back(5000);
  return attributes;
}

class AttentionCallsTest : public ::testing::TestWithParam<Case> {
 protected:
  ~AttentionCallsTest() override { SetFusedPolicy({}); }
};

// Inputs are bf16 numbers in both; stored are o, and of each key at most two parts and their sum:
// four roundings of 2^-9.
TEST_P(AttentionCallsTest, GiveWhatTheDefinitionGives) {
  const Case& c = GetParam();
  SetFusedPolicy({.deterministic = c.deterministic});
  const std::vector<Tensor> inputs = InputsOf(c);
  const AttentionAttributes attributes = AttributesOf(c);
  const Tensor seed = Uniform(inputs[0].shape(), 99).To(DType::kBF16);

  Tape tape;
  std::vector<Var> leaves;
  for (const Tensor& x : inputs) leaves.push_back(tape.Leaf(x.To(DType::kF64)));
  const std::vector<Var> want = AttentionOp().Compose(leaves, attributes);
  const std::vector<Tensor> want_gradients =
      tape.Gradient(want, std::vector<Tensor>{seed.To(DType::kF64)}, leaves);

  PlainCalls calls;
  const FusedOp<AttentionAttributes>::Kernel kernel = AttentionKernel(calls, c.scores);
  ASSERT_TRUE(kernel.accepts(inputs, attributes));
  std::vector<Tensor> saved;
  const std::vector<Tensor> got = kernel.forward(inputs, attributes, &saved);
  const std::vector<Tensor> gradients = kernel.backward(
      inputs, attributes, saved, std::vector<Tensor>{seed}, std::vector<bool>(inputs.size(), true));

  const double tolerance = 4 * std::ldexp(1.0, -9);
  EXPECT_LE(Distance(got[0], want[0].value()), tolerance);
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_LE(Distance(gradients[i], want_gradients[i]), tolerance) << "input " << i;
  }
  EXPECT_EQ(calls.counts.backward, c.calls);
  if (c.deterministic) {
    EXPECT_LE(calls.counts.scores, c.scores);
  }
}

constexpr int64_t kPlenty = int64_t{1} << 30, kTile = SdpaScoreBytes(128, 128);

INSTANTIATE_TEST_SUITE_P(
    All, AttentionCallsTest,
    ::testing::Values(Case{2, 2, 300, 0, 0, kPlenty, 1},            // whole
                      Case{3, 2, 200, 0, 0, 4 * 2 * kTile, 3},      // sequence by sequence
                      Case{2, 3, 256, 0, 0, 4 * kTile, 6},          // head by head
                      Case{1, 2, 384, 0, 0, 4 * kTile, 2 * 3},      // queries of a head
                      Case{1, 2, 256, 100, 0, 3 * kTile, 2 * 2},    // the same, older keys
                      Case{2, 2, 1280, 0, 100, kPlenty, 2 * 2},     // first block and others
                      Case{2, 2, 640, 0, 100, kPlenty, 1},          // too few to be cut
                      Case{2, 2, 700, 99, 100, kPlenty, 2 * 2},     // blocks alike, and a rest
                      Case{1, 2, 700, 40, 100, kPlenty, 3},         // all three
                      Case{1, 2, 512, 140, 129, kPlenty, 1},        // more before than is seen
                      Case{1, 4, 512, 127, 128, 8 * 2 * kTile, 2},  // two heads at a time
                      Case{1, 2, 640, 127, 128, 2 * 2 * kTile, 6},  // two blocks at a time
                      Case{1, 2, 100, 150, 200, kPlenty, 1},        // shorter than the window
                      Case{2, 2, 512, 0, 100, 0, 1, false},         // any order: whole,
                      Case{2, 2, 512, 99, 100, 0, 2 * 1, false}));  // unless keys come before

}  // namespace
}  // namespace mnemo::cuda
