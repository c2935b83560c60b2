#include "tests/core/memory_problem.h"

#include "src/core/ops.h"

namespace mnemo::testing {
namespace {

template <typename F>
void ForEachInput(const MemoryRule& rule, MemoryArguments& arguments, F&& f) {
  MemoryTokens& tokens = arguments.tokens;
  for (Var* x : {&tokens.q, &tokens.k, &tokens.v, &tokens.theta}) f(*x);
  if (rule.momentum) f(tokens.eta);
  if (rule.forgetting != Forgetting::kNever) f(tokens.alpha);
  ForEachVar(rule, arguments.parameters, f);
  ForEachVar(rule, arguments.state, f);
}

}  // namespace

MemoryProblem MakeMemoryProblem(const MemoryRule& rule, int64_t tokens, bool resets,
                                uint64_t seed) {
  MemoryProblem problem{rule, 2, 2, tokens, {}, {}, {}};
  const int64_t b = problem.batch, h = problem.heads, f = rule.head_dim;
  const auto add = [&](const std::string& name, const Shape& shape, double low, double high) {
    problem.inputs.push_back(Uniform(shape, 1000 * seed + problem.inputs.size(), low, high));
    problem.names.push_back(name);
  };
  const auto add_weights = [&](const std::string& name, Shape lead, double size) {
    for (int i = 0; i < rule.depth; ++i) {
      Shape shape = lead;
      shape.insert(shape.end(), {rule.out_dim(i), rule.in_dim(i)});
      add(fmt::format("{}.w{}", name, i), shape, -size, size);
    }
    for (int i = 0; i < (rule.biases ? rule.depth : 0); ++i) {
      Shape shape = lead;
      shape.insert(shape.end(), {1, rule.out_dim(i)});
      add(fmt::format("{}.c{}", name, i), shape, -size, size);
    }
  };
  for (const char* name : {"q", "k", "v"}) add(name, {b, h, tokens, f}, -1, 1);
  add("theta", {b, h, tokens, 1}, 0, 0.3);
  if (rule.momentum) add("eta", {b, h, tokens, 1}, 0, 0.9);
  if (rule.forgetting != Forgetting::kNever) add("alpha", {b, h, tokens, 1}, 0, 0.5);
  add_weights("initial", {h}, 0.8);
  if (rule.layer_norm) {
    add("norm_weight", {h, 1, f}, 0.5, 1.5);
    add("norm_bias", {h, 1, f}, -0.5, 0.5);
  }
  if (rule.row_scale) add("row_scale", {rule.chunk, 1}, -0.2, 0.4);
  add_weights("w", {b, h}, 0.8);
  if (rule.momentum) add_weights("s", {b, h}, 0.1);
  if (resets) {
    const int64_t chunks = (tokens + rule.chunk - 1) / rule.chunk;
    std::vector<double> flags(b * chunks);
    for (size_t i = 0; i < flags.size(); ++i) flags[i] = i % 5 == 1 || i % 7 == 3 ? 1 : 0;
    problem.resets = Tensor::FromHost(flags, {b, chunks}, DType::kF64);
  }
  return problem;
}

MemoryArguments Unpack(const MemoryRule& rule, std::span<const Var> inputs) {
  MemoryArguments arguments;
  size_t next = 0;
  ForEachInput(rule, arguments, [&](Var& x) { x = inputs[next++]; });
  MNEMO_CHECK(next == inputs.size());
  return arguments;
}

std::vector<Var> Results(const MemoryRule& rule, const Var& y, MemoryState state) {
  std::vector<Var> results{y};
  MemoryState boundary;  // the state without its open chunk
  boundary.w = state.w;
  boundary.s = state.s;
  ForEachVar(rule, boundary, [&](Var& x) { results.push_back(x); });
  return results;
}

Function ScanFunction(const MemoryProblem& problem, const std::vector<int64_t>& pieces) {
  std::vector<int64_t> lengths = pieces;
  if (lengths.empty()) lengths.push_back(problem.tokens);
  return [rule = problem.rule, resets = problem.resets, lengths](std::span<const Var> inputs) {
    const MemoryArguments all = Unpack(rule, inputs);
    MemoryState state = all.state;
    std::vector<Var> reads;
    int64_t begin = 0, chunk = 0;
    for (const int64_t length : lengths) {
      const int64_t end = begin + length;
      const auto rows = [&](const Var& x) { return x.defined() ? Slice(x, 2, begin, end) : x; };
      const MemoryTokens& t = all.tokens;
      const MemoryTokens piece{rows(t.q),     rows(t.k),   rows(t.v),
                               rows(t.theta), rows(t.eta), rows(t.alpha)};
      const int64_t chunks = (end + rule.chunk - 1) / rule.chunk;
      const Tensor flags =
          resets.defined() ? resets.To(all.tokens.q.dtype()).Slice(1, chunk, chunks) : resets;
      MemoryScanResult result = MemoryScan(rule, all.parameters, piece, state, flags);
      reads.push_back(result.y);
      state = result.state;
      begin = end;
      chunk = chunks;
    }
    return Results(rule, Concat(reads, 2), state);
  };
}

std::string Describe(const MemoryRule& rule) {
  return fmt::format(
      "depth {} {}{}{}{}{} forgetting {} clamp {}{}", rule.depth,
      rule.activation == MemoryActivation::kSilu ? "silu" : "gelu", rule.residual ? " x+" : "",
      rule.layer_norm ? " ln" : "", rule.biases ? " biases" : "", rule.momentum ? " momentum" : "",
      static_cast<int>(rule.forgetting), rule.clamp, rule.row_scale ? " row_scale" : "");
}

}  // namespace mnemo::testing
