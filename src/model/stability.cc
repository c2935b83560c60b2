#include "src/model/stability.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "src/core/ops.h"
#include "src/core/random.h"

namespace mnemo {
namespace {

constexpr double kRelativePerturbation = 1e-10;

MemoryTokens Rows(const MemoryTokens& tokens, int64_t begin, int64_t end) {
  const auto rows = [&](const Var& x) { return x.defined() ? Slice(x, 2, begin, end) : x; };
  return {rows(tokens.q),     rows(tokens.k),   rows(tokens.v),
          rows(tokens.theta), rows(tokens.eta), rows(tokens.alpha)};
}

// The same tokens for each of `batch` sequences.
MemoryTokens Repeat(const MemoryTokens& tokens, int64_t batch) {
  const auto repeat = [&](const Var& x) {
    if (!x.defined()) return x;
    Shape shape = x.shape();
    shape[0] = batch;
    return BroadcastTo(x, shape);
  };
  return {repeat(tokens.q),     repeat(tokens.k),   repeat(tokens.v),
          repeat(tokens.theta), repeat(tokens.eta), repeat(tokens.alpha)};
}

std::vector<Var> Flatten(const MemoryRule& rule, MemoryState& state) {
  std::vector<Var> list;
  ForEachVar(rule, state, [&](Var& x) { list.push_back(x); });
  return list;
}

// Norm over all tensors [B, H, ..] of the list, for each sequence and head: [B * H].
std::vector<double> Norms(std::span<const Var> list) {
  std::vector<double> norms;
  for (const Var& x : list) {
    const std::vector<double> part =
        SumTo(Square(x.Detach()), {x.dim(0), x.dim(1), 1, 1}).value().ToDoubles();
    norms.resize(part.size(), 0.0);
    for (size_t i = 0; i < part.size(); ++i) norms[i] += part[i];
  }
  for (double& norm : norms) {
    norm = std::isfinite(norm) ? std::sqrt(norm) : std::numeric_limits<double>::infinity();
  }
  return norms;
}

// value / base as a growth: infinite unless it is a number.
double Ratio(double value, double base) {
  const double ratio = value / base;
  return std::isfinite(ratio) ? ratio : std::numeric_limits<double>::infinity();
}

bool AllInfinite(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double x) { return std::isinf(x); });
}

Tensor NormalTensor(const RandomStream& stream, const Shape& shape) {
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = stream.Normal(i);
  return Tensor::FromHost(values, shape, DType::kF64);
}

class Measurement {
 public:
  Measurement(const MemoryRun& run, uint64_t seed)
      : run_(run),
        rule_(run.rule),
        seed_(seed),
        chunks_(run.tokens / run.rule.chunk),
        group_(std::max<int64_t>(1, std::llround(std::sqrt(static_cast<double>(chunks_))))),
        growth_(run.heads) {
    Require(chunks_ >= 2, "stability: {} tokens are less than two chunks of {}", run.tokens,
            rule_.chunk);
  }

  std::vector<HeadGrowth> Run() {
    if (RunForward()) {
      RunBackward();
    } else {
      for (HeadGrowth& head : growth_) head.adjoint = std::numeric_limits<double>::infinity();
    }
    return growth_;
  }

 private:
  int64_t GroupEnd(int64_t first) const { return std::min(chunks_, first + group_); }
  MemoryTokens GroupInputs(int64_t first) const {
    return run_.inputs(first * rule_.chunk, GroupEnd(first) * rule_.chunk);
  }
  MemoryTokens ChunkOf(const MemoryTokens& group, int64_t i) const {
    return Rows(group, i * rule_.chunk, (i + 1) * rule_.chunk);
  }

  // The state beside a perturbed one, as two sequences.
  MemoryState PerturbedPair() const {
    MemoryState state = InitialMemoryState(rule_, run_.parameters, 2);
    int index = 0;
    ForEachVar(rule_, state.w, [&](Var& w) {
      const RandomStream noise(seed_, 0, "stability/perturbation/" + std::to_string(index++));
      const Tensor first = w.value().Slice(0, 0, 1);
      const Var delta(NormalTensor(noise, first.shape()));
      const double root = std::sqrt(SumAll(Square(Var(first))).value().Item() /
                                    static_cast<double>(first.elements()));
      const double scale = kRelativePerturbation * root;  // biases, zero at first, stay
      const Var pair[] = {Var(first), Add(Var(first), Scale(delta, scale))};
      w = Concat(pair, 0);
    });
    return state;
  }

  // Keeps the first sequence's state at the start of every group. False if every head overflowed.
  bool RunForward() {
    MemoryState state = PerturbedPair();
    std::vector<double> delta_0;
    for (int64_t first = 0; first < chunks_; first = GroupEnd(first)) {
      const MemoryTokens inputs = Repeat(GroupInputs(first), 2);
      for (int64_t c = first; c < GroupEnd(first); ++c) {
        if (!Compare(c, state, delta_0)) return false;
        if (c == first) Keep(state);
        state = MemoryScan(rule_, run_.parameters, ChunkOf(inputs, c - first), state).state;
      }
    }
    return Compare(chunks_, state, delta_0);
  }

  void Keep(MemoryState& state) {
    std::vector<Tensor>& kept = kept_.emplace_back();
    ForEachVar(rule_, state, [&](Var& x) { kept.push_back(x.value().Slice(0, 0, 1).Clone()); });
  }

  bool Compare(int64_t chunk, MemoryState& state, std::vector<double>& delta_0) {
    std::vector<Var> states, deltas;
    ForEachVar(rule_, state, [&](Var& x) {
      states.push_back(Slice(x, 0, 0, 1));
      deltas.push_back(Sub(Slice(x, 0, 1, 2), states.back()));
    });
    const std::vector<double> size = Norms(states), delta = Norms(deltas);
    if (chunk == 0) delta_0 = delta;
    for (size_t h = 0; h < growth_.size(); ++h) {
      HeadGrowth& head = growth_[h];
      if (chunk == 0) head.first_state = size[h];
      head.largest_state = std::max(head.largest_state, size[h]);
      const double ratio = Ratio(delta[h], delta_0[h]);
      if (ratio <= head.perturbation) continue;
      head.perturbation = ratio;
      head.perturbation_token = chunk * rule_.chunk;
    }
    return !AllInfinite(size);
  }

  void RunBackward() {
    std::vector<Tensor> adjoint;
    std::vector<double> last;
    for (int64_t g = static_cast<int64_t>(kept_.size()) - 1; g >= 0; --g) {
      const int64_t first = g * group_, end = GroupEnd(first);
      const MemoryTokens inputs = GroupInputs(first);
      std::vector<std::vector<Tensor>> states = RunAgain(inputs, kept_[g], end - first);
      kept_.pop_back();
      for (int64_t c = end - 1; c >= first; --c) {
        adjoint = Differentiate(ChunkOf(inputs, c - first), states.back(), adjoint);
        states.pop_back();
        if (!CompareAdjoint(c, adjoint, last)) return;
      }
    }
  }

  // The states before each of the group's chunks.
  std::vector<std::vector<Tensor>> RunAgain(const MemoryTokens& inputs,
                                            const std::vector<Tensor>& kept, int64_t count) const {
    std::vector<std::vector<Tensor>> states = {kept};
    for (int64_t i = 0; i + 1 < count; ++i) {
      MemoryState state = Unflatten(states.back(), nullptr);
      state = MemoryScan(rule_, run_.parameters, ChunkOf(inputs, i), state).state;
      std::vector<Tensor>& next = states.emplace_back();
      ForEachVar(rule_, state, [&](Var& x) { next.push_back(x.value()); });
    }
    return states;
  }

  MemoryState Unflatten(const std::vector<Tensor>& list, Tape* tape) const {
    MemoryState state;
    size_t next = 0;
    ForEachVar(rule_, state, [&](Var& x) {
      x = tape == nullptr ? Var(list[next]) : tape->Leaf(list[next]);
      ++next;
    });
    return state;
  }

  // The adjoint before a chunk from the one after it; of the projected outputs for the last chunk,
  // where `after` is empty.
  std::vector<Tensor> Differentiate(const MemoryTokens& tokens, const std::vector<Tensor>& state,
                                    const std::vector<Tensor>& after) const {
    Tape tape;
    MemoryState before = Unflatten(state, &tape);
    const std::vector<Var> leaves = Flatten(rule_, before);
    MemoryScanResult result = MemoryScan(rule_, run_.parameters, tokens, before);
    std::vector<Tensor> adjoint;
    if (after.empty()) {
      const RandomStream stream(seed_, 0, "stability/projection");
      const Tensor projection = NormalTensor(stream, result.y.shape());
      adjoint = tape.Gradient({&result.y, 1}, {&projection, 1}, leaves);
    } else {
      adjoint = tape.Gradient(Flatten(rule_, result.state), after, leaves);
    }
    for (size_t i = 0; i < adjoint.size(); ++i) {
      if (!adjoint[i].defined()) adjoint[i] = Tensor::Zeros(state[i].shape(), DType::kF64);
    }
    return adjoint;
  }

  // False once every head has overflowed.
  bool CompareAdjoint(int64_t chunk, const std::vector<Tensor>& adjoint,
                      std::vector<double>& last) {
    const std::vector<double> norms = Norms(std::vector<Var>(adjoint.begin(), adjoint.end()));
    if (last.empty()) last = norms;
    for (size_t h = 0; h < growth_.size(); ++h) {
      HeadGrowth& head = growth_[h];
      head.last_adjoint = last[h];
      head.first_adjoint = norms[h];
      const double ratio = Ratio(norms[h], last[h]);
      if (ratio <= head.adjoint) continue;
      head.adjoint = ratio;
      head.adjoint_token = chunk * rule_.chunk;
    }
    return !AllInfinite(norms);
  }

  const MemoryRun& run_;
  const MemoryRule& rule_;
  uint64_t seed_;
  int64_t chunks_, group_;
  std::vector<HeadGrowth> growth_;
  std::vector<std::vector<Tensor>> kept_;  // flattened states
};

}  // namespace

std::vector<HeadGrowth> MeasureGrowth(const MemoryRun& run, uint64_t seed) {
  return Measurement(run, seed).Run();
}

std::vector<double> LargestStates(const MemoryRun& run) {
  const int64_t chunk = run.rule.chunk, end = run.tokens / chunk * chunk;
  constexpr int64_t kGroup = 64;  // chunks whose inputs are made at once
  MemoryState state = InitialMemoryState(run.rule, run.parameters, 1);
  std::vector<double> largest = Norms(Flatten(run.rule, state));
  for (int64_t first = 0; first < end && !AllInfinite(largest); first += kGroup * chunk) {
    const int64_t count = std::min(kGroup * chunk, end - first);
    const MemoryTokens inputs = run.inputs(first, first + count);
    for (int64_t t = 0; t < count; t += chunk) {
      state = MemoryScan(run.rule, run.parameters, Rows(inputs, t, t + chunk), state).state;
      const std::vector<double> norms = Norms(Flatten(run.rule, state));
      for (size_t h = 0; h < norms.size(); ++h) largest[h] = std::max(largest[h], norms[h]);
    }
  }
  return largest;
}

}  // namespace mnemo
