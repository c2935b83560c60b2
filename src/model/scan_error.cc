#include "src/model/scan_error.h"

#include <cmath>
#include <limits>
#include <utility>

#include "src/core/fused_op.h"
#include "src/core/ops.h"
#include "src/core/random.h"

namespace mnemo {
namespace {

struct Argument {
  std::string name;
  Tensor value;  // f64, representable in `dtype`
  DType dtype;   // on the device
};

Argument Rounded(std::string name, const Tensor& value, DType dtype) {
  return {std::move(name), value.To(dtype).To(DType::kF64), dtype};
}

// All that a scan reads, in one order, and back.
struct Arguments {
  MemoryTokens tokens;
  MemoryParameters parameters;
  MemoryState state;
};

template <typename F>
void ForEachVar(const MemoryRule& rule, Arguments& arguments, F&& f) {
  MemoryTokens& t = arguments.tokens;
  f("q", t.q), f("k", t.k), f("v", t.v), f("theta", t.theta);
  if (rule.momentum) f("eta", t.eta);
  if (rule.forgetting != Forgetting::kNever) f("alpha", t.alpha);
  const auto weights = [&](MemoryWeights& list, const std::string& w, const std::string& c) {
    int next = 0;
    ForEachVar(rule, list, [&](Var& x) {
      f((next < rule.depth ? w : c) + std::to_string(next % rule.depth + 1), x);
      ++next;
    });
  };
  MemoryParameters& p = arguments.parameters;
  weights(p.initial, "W_0 of ", "c_0 of ");
  if (rule.layer_norm) f("norm weight", p.norm_weight), f("norm bias", p.norm_bias);
  if (rule.row_scale) f("row scale", p.row_scale);
  weights(arguments.state.w, "W", "c");
  if (rule.momentum) weights(arguments.state.s, "S", "momentum of c");
}

struct Outcome {
  std::vector<std::vector<double>> values, gradients;  // gradients: empty where nothing flows
};

Outcome Scan(const MemoryRule& rule, std::span<const Argument> list, bool on_device, Device device,
             uint64_t seed) {
  Tape tape;
  Arguments arguments;
  std::vector<Var> leaves;
  size_t next = 0;
  ForEachVar(rule, arguments, [&](const std::string&, Var& x) {
    const Argument& argument = list[next++];
    x = tape.Leaf(on_device ? argument.value.To(argument.dtype).To(device) : argument.value);
    leaves.push_back(x);
  });
  MemoryScanResult result =
      MemoryScan(rule, arguments.parameters, arguments.tokens, arguments.state);
  std::vector<Var> outputs = {result.y};
  ForEachVar(rule, result.state, [&](Var& x) { outputs.push_back(x); });
  std::vector<Tensor> adjoints;
  Outcome outcome;
  for (const Var& output : outputs) {
    const RandomStream stream(seed, 0, "scan error/" + std::to_string(adjoints.size()));
    std::vector<double> values(output.value().elements());
    for (size_t i = 0; i < values.size(); ++i) values[i] = stream.Normal(i);
    const Tensor rounded =
        Tensor::FromHost(values, output.shape(), DType::kF64).To(DType::kBF16).To(DType::kF64);
    adjoints.push_back(on_device ? rounded.To(output.dtype()).To(device) : rounded);
    outcome.values.push_back(output.value().ToDoubles());
  }
  for (const Tensor& gradient : tape.Gradient(outputs, adjoints, leaves)) {
    outcome.gradients.push_back(gradient.defined() ? gradient.ToDoubles() : std::vector<double>());
  }
  return outcome;
}

double Relative(const std::vector<double>& got, const std::vector<double>& wanted) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    error += (got[i] - wanted[i]) * (got[i] - wanted[i]);
    norm += wanted[i] * wanted[i];
  }
  if (error == 0) return 0;
  const double relative = std::sqrt(error / norm);
  return std::isfinite(relative) ? relative : std::numeric_limits<double>::infinity();
}

}  // namespace

std::vector<MemoryState> StatesBefore(const MemoryRun& run, std::span<const int64_t> tokens) {
  std::vector<MemoryState> states;
  MemoryState state = InitialMemoryState(run.rule, run.parameters, 1);
  int64_t at = 0;
  for (const int64_t token : tokens) {
    Require(token % run.rule.chunk == 0 && token >= at && token < run.tokens,
            "a state before token {} was asked for, which is not at the beginning of a chunk, or "
            "out of order",
            token);
    constexpr int64_t kGroup = 64;  // chunks at once
    while (at < token) {
      const int64_t end = std::min(token, at + kGroup * run.rule.chunk);
      state = MemoryScan(run.rule, run.parameters, run.inputs(at, end), state).state;
      at = end;
    }
    states.push_back(state);
  }
  return states;
}

ScanErrors MeasureScanErrors(const MemoryRun& run, const MemoryState& state, int64_t begin,
                             int64_t end, Device device, uint64_t seed) {
  Require((end - begin) % run.rule.chunk == 0,
          "the tokens from {} to {} are not whole chunks of {}", begin, end, run.rule.chunk);
  Arguments arguments{run.inputs(begin, end), run.parameters, state};
  std::vector<Argument> list;
  ForEachVar(run.rule, arguments, [&](const std::string& name, Var& x) {
    const bool narrow = name == "q" || name == "k" || name == "v";
    list.push_back(Rounded(name, x.value(), narrow ? DType::kBF16 : DType::kF32));
  });
  const int64_t calls = FusedCounts()["memory_scan"].kernel;
  const Outcome got = Scan(run.rule, list, true, device, seed);
  ScanErrors errors;
  errors.kernel = FusedCounts()["memory_scan"].kernel > calls;
  const Outcome wanted = Scan(run.rule, list, false, device, seed);
  errors.values.push_back({"y", Relative(got.values[0], wanted.values[0])});
  // The state after has the names of the state before, which comes last.
  const size_t outputs = wanted.values.size();
  for (size_t i = 1; i < outputs; ++i) {
    errors.carry.push_back(
        {list[list.size() - outputs + i].name, Relative(got.values[i], wanted.values[i])});
  }
  for (size_t i = 0; i < list.size(); ++i) {
    if (wanted.gradients[i].empty()) continue;
    errors.gradients.push_back(
        {"d " + list[i].name, Relative(got.gradients[i], wanted.gradients[i])});
  }
  return errors;
}

}  // namespace mnemo
