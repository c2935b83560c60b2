#include "tests/model/block_comparison.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "src/core/counting_backend.h"
#include "src/core/planned_fused_policy.h"
#include "src/core/random.h"
#include "src/model/block.h"
#include "src/model/sequence_runner.h"

namespace mnemo::testing {
namespace {

constexpr int64_t kBatch = 2;

// A rounding to nearest of a significand of b bits errs by at most 2^-b, relative; evenly
// distributed, and over the values of a binade, its deviation is 0.42 of that.
constexpr double kDeviation = 0.42;
// Tensors that are rounded one after the other between x and the gradient of x: some 14 in a block
// (norms, projections, reads, gates, sums), as many inside its mixer, and each again on the way
// back.
constexpr double kRounded = 2 * (14 + 14);
// Bounds are this many deviations.
constexpr double kDeviations = 3;
// An element's error over the largest, over the tensor's relative error in L2 norm.
constexpr double kElement = 6;
// Moved by so much, an f64 pass is linear to 1e-6 and exact to 1e-9 of it.
constexpr double kMove = 1e-6;
constexpr int kMoves = 4;

struct Inputs {
  ParameterSet parameters;
  Tensor x;                   // [B, n, d]
  std::vector<Tensor> carry;  // none at the beginning
};

// Values of everything that is compared.
struct Results {
  std::vector<std::string> names;
  std::vector<std::vector<double>> values;

  void Add(const std::string& name, const Tensor& x, const Shape& shape) {
    names.push_back(name);
    values.push_back(x.defined() ? x.ToDoubles() : std::vector<double>(ElementCount(shape), 0.0));
  }
};

// The process's policy, while it lives.
struct UsePolicy {
  explicit UsePolicy(FusedPolicy policy) { SetFusedPolicy(policy); }
  ~UsePolicy() { SetFusedPolicy({}); }
  UsePolicy(const UsePolicy&) = delete;
  UsePolicy& operator=(const UsePolicy&) = delete;
};

struct PassOptions {
  std::function<void()> poison = {};
  bool backward_follows = true;
  int move = -1;  // the number of a random move of the output gradients; -1: none
};

std::vector<double> Normals(int64_t count, const std::string& name, double scale) {
  const RandomStream random(5, 0, name);
  std::vector<double> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = scale * random.Normal(i);
  return values;
}

Tensor Normal(const Shape& shape, const std::string& name, double scale = 1) {
  return Tensor::FromHost(Normals(ElementCount(shape), name, scale), shape, DType::kF64);
}

// x with every element moved at random by a relative kMove; f64.
Tensor Moved(const Tensor& x, const std::string& name, int move) {
  std::vector<double> values = x.ToDoubles();
  const std::vector<double> by =
      Normals(x.elements(), fmt::format("move {} {}", move, name), kMove);
  for (size_t i = 0; i < values.size(); ++i) values[i] *= 1 + by[i];
  return Tensor::FromHost(values, x.shape(), DType::kF64);
}

// First values and noise, so that no gate, bias or norm is trivial.
ParameterSet FirstParameters(const ModelSpec& spec, DType dtype) {
  const ParameterSet first = ParameterSet::Initialize(spec, 1, DType::kF64);
  ParameterSet set(first.infos(), WideType(dtype), {});
  for (size_t i = 0; i < set.size(); ++i) {
    std::vector<double> values = first[i].ToDoubles();
    const double scale =
        std::min(0.2, 0.5 / std::sqrt(static_cast<double>(first[i].shape().back())));
    const std::vector<double> noise =
        Normals(first[i].elements(), "noise " + set.info(i).name, scale);
    for (size_t k = 0; k < values.size(); ++k) values[k] += noise[k];
    set.Set(i, Tensor::FromHost(values, first[i].shape(), set.flat().dtype()));
  }
  set.AddComputeCopies(dtype);
  return set;
}

SliceContext ContextOf(const BlockCase& c, const Tensor& x) {
  std::vector<int64_t> starts(kBatch, 0);
  return MakeSliceContext(c.spec, c.position, c.length, c.resets, starts, x.dtype(), x.device());
}

// What a device in `dtype` is given.
Inputs MakeInputs(const BlockCase& c, DType dtype) {
  Inputs in{FirstParameters(c.spec, dtype), {}, {}};
  in.x = Normal({kBatch, c.length, c.spec.width}, "x").To(dtype);
  if (c.position > 0) {
    const UnitParameters constants(in.parameters, 0, nullptr);
    const Tensor before = Normal({kBatch, c.position, c.spec.width}, "before").To(dtype);
    SliceContext context;
    context.length = c.position;
    BlockResult result = RunBlock(c.spec, constants, Var(before), {}, context);
    ForEachVar(c.spec, result.carry, [&](Var& x) { in.carry.push_back(x.value().Clone()); });
  }
  return in;
}

// The same in f64, moved if asked for.
Inputs InDouble(const Inputs& in, int move = -1) {
  const auto wide = [&](const Tensor& x, const std::string& name) {
    return move < 0 ? x.To(DType::kF64) : Moved(x.To(DType::kF64), name, move);
  };
  Inputs all{ParameterSet(in.parameters.infos(), DType::kF64, {}), wide(in.x, "x"), {}};
  for (size_t i = 0; i < in.parameters.size(); ++i) {
    all.parameters.Set(i, wide(in.parameters.Compute(i), in.parameters.info(i).name));
  }
  for (size_t i = 0; i < in.carry.size(); ++i) {
    all.carry.push_back(wide(in.carry[i], fmt::format("carry {}", i)));
  }
  return all;
}

Inputs On(const Inputs& in, Device device) {
  Inputs all{ParameterSet(in.parameters.infos(), in.parameters.flat().dtype(), device),
             in.x.To(device),
             {}};
  for (size_t i = 0; i < in.parameters.size(); ++i) all.parameters.Set(i, in.parameters[i]);
  all.parameters.AddComputeCopies(in.parameters.compute_dtype());
  for (const Tensor& part : in.carry) all.carry.push_back(part.To(device));
  return all;
}

// The gradient of an output. What a state's matrix gets is about as much as a row gets, so that
// neither hides the other.
Tensor Seed(const Var& y, size_t index, int move) {
  const int64_t matrix = y.rank() < 4 ? 1 : y.dim(-1) * y.dim(-2);
  const std::string name = fmt::format("seed {}", index);
  // Representable in every dtype.
  const Tensor seed =
      Normal(y.shape(), name, 4 / std::sqrt(static_cast<double>(matrix))).To(DType::kBF16);
  if (move >= 0) return Moved(seed.To(DType::kF64), name, move);
  return seed.To(y.dtype()).To(y.device());
}

Results RunPass(const BlockCase& c, const Inputs& in, const PassOptions& options) {
  const Device device = in.x.device();
  std::optional<BackwardFollows> follows;
  if (options.backward_follows) follows.emplace();
  Tape tape;
  // Parameters' gradients are added up in f32, as in training.
  const ParameterSet gradients(in.parameters.infos(), in.parameters.flat().dtype(), device);
  const UnitParameters parameters(in.parameters, 0, &tape, &gradients);
  const Var x = tape.Leaf(in.x);
  std::vector<Var> carry_in;
  for (const Tensor& part : in.carry) carry_in.push_back(tape.Leaf(part));
  std::optional<Carry> carry;
  if (c.position > 0) carry = UnflattenCarry(c.spec, c.position, carry_in);
  const SliceContext context = ContextOf(c, in.x);

  if (options.poison) options.poison();
  BlockResult result = RunBlock(c.spec, parameters, x, carry, context);
  std::vector<Var> outputs{result.y};
  for (const Var& part : FlattenCarry(c.spec, result.carry)) outputs.push_back(part);
  Results results;
  std::vector<Tensor> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    results.Add(i == 0 ? "y" : fmt::format("carry {}", i - 1), outputs[i].value(), {});
    seeds.push_back(Seed(outputs[i], i, options.move));
  }
  std::vector<Var> wrt = parameters.vars();
  const size_t count = wrt.size();
  wrt.push_back(x);
  wrt.insert(wrt.end(), carry_in.begin(), carry_in.end());

  if (options.poison) options.poison();
  const std::vector<Tensor> found = tape.Gradient(outputs, seeds, wrt);
  results.Add("gradient of x", found[count], in.x.shape());
  for (size_t i = 0; i < in.carry.size(); ++i) {
    results.Add(fmt::format("gradient of carry {}", i), found[count + 1 + i], in.carry[i].shape());
  }
  for (const int i : parameters.indices()) {
    results.Add("gradient of " + gradients.info(i).name, gradients[i], {});
  }
  return results;
}

// |a - b| / |b|, and the largest difference over the largest of b.
struct Error {
  double norm = 0, element = 0;
};

Error ErrorOf(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0, worst = 0, largest = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double apart = std::abs(a[i] - b[i]);
    difference += apart * apart;
    norm += b[i] * b[i];
    worst = std::isfinite(apart) ? std::max(worst, apart) : INFINITY;
    largest = std::max(largest, std::abs(b[i]));
  }
  if (norm == 0) return {std::sqrt(difference), worst};  // nothing depends on it
  return {std::sqrt(difference / norm), worst / largest};
}

// How far each result moves, relative, where everything that goes in moves by a relative unit.
std::vector<double> Sensitivities(const BlockCase& c, const Inputs& in, const Results& exact) {
  std::vector<double> squares(exact.values.size(), 0.0);
  for (int move = 0; move < kMoves; ++move) {
    const Results moved = RunPass(c, InDouble(in, move), {.move = move});
    for (size_t i = 0; i < squares.size(); ++i) {
      const double by = ErrorOf(moved.values[i], exact.values[i]).norm / kMove;
      squares[i] += by * by / kMoves;
    }
  }
  for (double& square : squares) square = std::sqrt(square);
  return squares;
}

// Deviation of a result of sensitivity 1, relative.
double DeviationOf(const ModelSpec& spec, int64_t rows, DType dtype) {
  if (dtype == DType::kBF16) return kDeviation * 0x1p-8 * std::sqrt(kRounded);  // sums are f32
  // A sum rounds as often as it has terms.
  const int64_t longest = std::max({spec.width, spec.mlp_hidden, rows});
  return kDeviation * 0x1p-24 * std::sqrt(kRounded + static_cast<double>(longest));
}

}  // namespace

void CompareBlock(const BlockCase& c, const BlockForm& form) {
  const Inputs in = MakeInputs(c, form.dtype);
  const Results exact = RunPass(c, InDouble(in), {});
  const std::vector<double> sensitivities = Sensitivities(c, in, exact);
  const double deviation = DeviationOf(c.spec, kBatch * c.length, form.dtype);

  const Inputs there = On(in, form.device);
  const auto run = [&](bool backward_follows) {
    const UsePolicy use(form.policy);
    return RunPass(c, there, {.poison = form.poison, .backward_follows = backward_follows});
  };
  const Results got = run(true);
  ASSERT_EQ(got.names, exact.names);
  for (size_t i = 0; i < got.values.size(); ++i) {
    ASSERT_EQ(got.values[i].size(), exact.values[i].size()) << got.names[i];
    const Error error = ErrorOf(got.values[i], exact.values[i]);
    const double bound = kDeviations * deviation * sensitivities[i];
    EXPECT_LE(error.norm, bound) << got.names[i];
    EXPECT_LE(error.element, kElement * bound) << got.names[i] << ", one element";
  }
  // NaN equals nothing.
  EXPECT_TRUE(run(true).values == got.values) << "two runs differ";
  EXPECT_TRUE(run(false).values == got.values) << "what is kept for later changes the result";
}

void RequireKernels(const BlockCase& c) {
  const PlannedFusedPolicy strict({.strict = true});
  RunPass(c, On(MakeInputs(c, DType::kBF16), kCountingGpu), {});
}

}  // namespace mnemo::testing
