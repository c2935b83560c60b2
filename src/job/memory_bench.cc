#include "src/job/memory_bench.h"

#include <cmath>
#include <vector>

#include "src/core/backend.h"
#include "src/core/fused/layers.h"
#include "src/job/timing.h"
#include "src/model/flops.h"

namespace mnemo {
namespace {

// Inputs and parameters as constants; Track() makes leaves of them.
struct Problem {
  MemoryParameters parameters;
  MemoryTokens tokens;
};

template <typename F>
void ForEachVar(const MemoryRule& rule, Problem& problem, F&& f) {
  for (Var* x : {&problem.tokens.q, &problem.tokens.k, &problem.tokens.v, &problem.tokens.theta,
                 &problem.tokens.eta, &problem.tokens.alpha}) {
    if (x->defined()) f(*x);
  }
  ForEachVar(rule, problem.parameters, f);
}

Problem MakeProblem(const MemoryBenchOptions& options) {
  const MemoryRule& rule = options.rule;
  const Shape rows{options.batch, options.heads, options.tokens, rule.head_dim};
  Shape gate = rows;
  gate.back() = 1;
  const auto normals = [&](const Shape& shape, double deviation) {
    const Tensor x = RandomTensor(shape, options.dtype);
    CpuBackend().Affine(x, deviation, 0, x);
    return Var(x);
  };
  const auto constant = [&](const Shape& shape, double value) {
    return Var(Tensor::Full(shape, value, options.dtype));
  };
  Problem problem;
  for (Var* x : {&problem.tokens.q, &problem.tokens.k, &problem.tokens.v}) {
    *x = L2Norm(normals(rows, 1), 1, rule.epsilon);
  }
  constexpr double kEta = 0.49, kAlpha = 1e-3;
  const double rate = 1 / static_cast<double>(rule.head_dim);
  problem.tokens.theta = constant(gate, 0.5 * rate * (rule.momentum ? 1 - kEta : 1));
  if (rule.momentum) problem.tokens.eta = constant(gate, kEta);
  if (rule.forgetting != Forgetting::kNever) problem.tokens.alpha = constant(gate, kAlpha);
  for (int i = 0; i < rule.depth; ++i) {
    const double deviation = i == 0 ? 1 : 1 / std::sqrt(static_cast<double>(rule.in_dim(i)));
    const Shape shape{options.heads, rule.out_dim(i), rule.in_dim(i)};
    problem.parameters.initial.w.push_back(normals(shape, deviation));
    if (!rule.biases) continue;
    problem.parameters.initial.c.push_back(constant({options.heads, 1, rule.out_dim(i)}, 0));
  }
  if (rule.layer_norm) {
    problem.parameters.norm_weight = constant({options.heads, 1, rule.head_dim}, 1);
    problem.parameters.norm_bias = constant({options.heads, 1, rule.head_dim}, 0);
  }
  if (rule.row_scale) problem.parameters.row_scale = constant({rule.chunk, 1}, 0);
  return problem;
}

Var Forward(const MemoryBenchOptions& options, const Problem& problem) {
  const MemoryState state = InitialMemoryState(options.rule, problem.parameters, options.batch);
  return MemoryScan(options.rule, problem.parameters, problem.tokens, state).y;
}

void ForwardAndBackward(const MemoryBenchOptions& options, Problem problem, const Tensor& dy) {
  Tape tape;
  std::vector<Var> leaves;
  ForEachVar(options.rule, problem, [&](Var& x) {
    x = tape.Leaf(x.value());
    leaves.push_back(x);
  });
  const Var y = Forward(options, problem);
  (void)tape.Gradient({&y, 1}, {&dy, 1}, leaves);
}

}  // namespace

MemoryBenchResult BenchMemory(const MemoryBenchOptions& options) {
  const Problem problem = MakeProblem(options);
  const Tensor dy = RandomTensor(problem.tokens.q.shape(), options.dtype);
  MemoryBenchResult result;
  result.tokens = options.batch * options.tokens;
  result.forward_flops =
      MemoryFlopsPerHead(options.rule) * static_cast<double>(result.tokens * options.heads);
  result.training_flops = 3 * result.forward_flops;
  result.forward = SecondsPerCall([&] { Forward(options, problem); }, options.iterations);
  result.training =
      SecondsPerCall([&] { ForwardAndBackward(options, problem, dy); }, options.iterations);
  return result;
}

}  // namespace mnemo
