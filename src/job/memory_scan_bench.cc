#include "src/job/memory_scan_bench.h"

#include <fmt/format.h>

#include <cmath>

#include "src/core/cuda/memory_scan_op.h"
#include "src/core/cuda/memory_scan_traffic.h"
#include "src/core/fused/layers.h"
#include "src/core/fused/memory_scan.h"
#include "src/model/flops.h"

namespace mnemo {
namespace {

bool Forgets(const MemoryRule& rule) { return rule.forgetting != Forgetting::kNever; }

// theta, and eta and alpha where the rule has them.
int GateCount(const MemoryRule& rule) {
  return 1 + (rule.momentum ? 1 : 0) + (Forgets(rule) ? 1 : 0);
}

// The op's inputs in one order, and back: rows, gates, weights, norm.
std::vector<OpTimer::Input> Inputs(const MemoryScanCase& scan, OpTimer& timer) {
  const MemoryRule& rule = scan.rule;
  Require(!rule.biases && !rule.row_scale, "biases and row scale are not timed");
  const double unit = 1 / std::sqrt(static_cast<double>(rule.head_dim));
  const auto rows = [&](double scale) {
    const Shape shape{scan.batch, scan.tokens, scan.heads * rule.head_dim};
    return SplitHeads(timer.Random(shape, kRows, scale), scan.heads).value();
  };
  const auto constant = [&](const Shape& shape, double value) {
    return Tensor::Full(shape, value, kSums, timer.device());
  };
  const Shape gate{scan.batch, scan.heads, scan.tokens, 1};
  std::vector<OpTimer::Input> inputs = {{rows(unit)}, {rows(unit)}, {rows(1)}};
  inputs.push_back({constant(gate, 0.25 / static_cast<double>(rule.head_dim))});
  if (rule.momentum) inputs.push_back({constant(gate, 0.49)});
  if (Forgets(rule)) inputs.push_back({constant(gate, 1e-4)});
  for (int i = 0; i < rule.depth; ++i) {
    const Shape shape{scan.heads, rule.out_dim(i), rule.in_dim(i)};
    inputs.push_back({timer.Random(shape, kSums, i + 1 < rule.depth ? 1 : unit / 2), true});
  }
  if (rule.layer_norm) {
    inputs.push_back({constant({scan.heads, 1, rule.head_dim}, 1), true});
    inputs.push_back({constant({scan.heads, 1, rule.head_dim}, 0), true});
  }
  return inputs;
}

Var Scan(const MemoryScanCase& scan, std::span<const Var> inputs) {
  const MemoryRule& rule = scan.rule;
  size_t next = 0;
  const auto take = [&](Var& x) { x = inputs[next++]; };
  MemoryTokens tokens;
  for (Var* x : {&tokens.q, &tokens.k, &tokens.v, &tokens.theta}) take(*x);
  if (rule.momentum) take(tokens.eta);
  if (Forgets(rule)) take(tokens.alpha);
  MemoryParameters parameters;
  ForEachVar(rule, parameters, take);
  const MemoryState state = InitialMemoryState(rule, parameters, scan.batch);
  return MemoryScan(rule, parameters, tokens, state).y;
}

}  // namespace

std::string Name(const MemoryScanCase& scan) {
  const MemoryRule usual, &rule = scan.rule;
  std::string name;
  if (rule.depth != usual.depth) name += fmt::format("depth {}, ", rule.depth);
  if (rule.layer_norm != (rule.depth > 1)) name += rule.layer_norm ? "norm, " : "no norm, ";
  if (!rule.momentum) name += "no momentum, ";
  if (rule.activation == MemoryActivation::kGelu) name += "GELU, ";
  return name + fmt::format("chunk {}, B{} T{}", rule.chunk, scan.batch, scan.tokens);
}

std::vector<MemoryScanCase> LargeMemoryScans() {
  MemoryRule plain, gelu, narrow, flat;
  gelu.activation = MemoryActivation::kGelu;
  narrow.chunk = 16;
  flat.depth = 1;
  flat.layer_norm = flat.residual = false;
  constexpr int64_t kHeads = 16, kShort = 8192, kLong = 32768, kLongest = 262144;
  return {{plain, 4, kHeads, kShort},  {plain, 1, kHeads, kLong},  {plain, 1, kHeads, kLongest},
          {narrow, 4, kHeads, kShort}, {narrow, 1, kHeads, kLong}, {flat, 4, kHeads, kShort},
          {flat, 1, kHeads, kLong},    {gelu, 4, kHeads, kShort}};
}

MemoryScanWork LeastWork(const MemoryScanCase& scan) {
  const auto tokens = static_cast<double>(scan.batch * scan.tokens * scan.heads);
  const double flops = MemoryFlopsPerHead(scan.rule) * tokens;
  const double rows =
      tokens * static_cast<double>(scan.rule.head_dim) * static_cast<double>(SizeOf(kRows));
  const double gates = tokens * GateCount(scan.rule) * static_cast<double>(SizeOf(kSums));
  return {{flops, 4 * rows + gates},
          {2 * flops, 8 * rows + 2 * gates},
          {3 * flops, 12 * rows + 3 * gates}};
}

MemoryScanWork KernelWork(const MemoryScanCase& scan) {
  MemoryScanWork work = LeastWork(scan);
  const Tensor shape_of_q = Tensor::Zeros({}, kRows).BroadcastTo(
      {scan.batch, scan.heads, scan.tokens, scan.rule.head_dim});
  const MemoryScanShape shape = cuda::MemoryScanShapeOf(scan.rule, shape_of_q);
  if (!MemoryScanSupports(shape)) return work;
  const cuda::MemoryScanTraffic traffic = cuda::MemoryScanTrafficOf(shape);
  work.forward.bytes = traffic.forward;
  work.backward.bytes = traffic.backward;
  work.at_once.bytes = traffic.at_once;
  return work;
}

void TimeMemoryScan(const std::string& name, const MemoryScanCase& scan, const MemoryScanWork& work,
                    OpTimer& timer) {
  const std::vector<OpTimer::Input> inputs = Inputs(scan, timer);
  const std::string shapes = ToString(inputs[0].value.shape());
  const auto call = [&](std::span<const Var> in) { return Scan(scan, in); };
  timer.Fused(name, shapes, inputs, work.forward, work.backward, call);
  timer.FusedAtOnce(name, shapes, inputs, work.at_once, call);
}

}  // namespace mnemo
