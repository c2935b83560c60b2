#include "tests/bench/memory_scan/reference.h"

#include <utility>

#include "tests/bench/memory_scan/reference_chunk.h"

namespace mnemo::memory_reference {
namespace {

bool Resets(const Rule& rule, const Inputs& in, int t0) {
  return !in.resets.empty() && in.resets[t0 / rule.chunk];
}

// To W_0, S = 0, where the chunk that begins at t0 is to begin there.
void Reset(const Rule& rule, const Inputs& in, int t0, State& state) {
  if (!Resets(rule, in, t0)) return;
  state.w = in.initial;
  for (Mat& s : state.s) std::fill(s.v.begin(), s.v.end(), 0.0);
}

void ResetBackward(const Rule& rule, const Inputs& in, int t0, Gradients& out) {
  if (!Resets(rule, in, t0)) return;
  for (int i = 0; i < rule.depth; ++i) {
    Axpy(out.initial[i], 1, out.carry.w[i]);
    for (Mat* x : {&out.carry.w[i], &out.carry.s[i]}) std::fill(x->v.begin(), x->v.end(), 0.0);
  }
}

}  // namespace

Outputs Forward(const Rule& rule, const Inputs& in) {
  const RoundOperands rounding(rule.round_operands);
  Outputs out{Mat(in.q.rows, in.q.cols), in.carry, 0};
  for (int t = 0; t < in.q.rows; t += rule.chunk) {
    Reset(rule, in, t, out.carry);
    const Chunk chunk = RunChunk(rule, in, out.carry, t, &out.y);
    for (const double x : chunk.norm2) out.clamp_hits += x > rule.clamp * rule.clamp;
    out.carry = NextState(rule, in, chunk);
  }
  if (rule.round_operands) Round(out.y);
  return out;
}

Gradients Backward(const Rule& rule, const Inputs& in, const Mat& dy, const State& dcarry) {
  const RoundOperands rounding(rule.round_operands);
  const int tokens = in.q.rows, f = in.q.cols;
  std::vector<Chunk> chunks;
  State state = in.carry;
  for (int t = 0; t < tokens; t += rule.chunk) {
    Reset(rule, in, t, state);
    chunks.push_back(RunChunk(rule, in, state, t, nullptr));
    state = NextState(rule, in, chunks.back());
  }
  const std::vector<double> zero(tokens);
  Gradients out{Mat(tokens, f),
                Mat(tokens, f),
                Mat(tokens, f),
                zero,
                zero,
                zero,
                std::vector<double>(f),
                std::vector<double>(f),
                dcarry,
                {},
                std::vector<double>(in.row_scale.size())};
  for (const Mat& w : in.initial) out.initial.emplace_back(w.rows, w.cols);
  for (size_t i = chunks.size(); i-- > 0;) {
    ChunkBackward(rule, in, chunks[i], Rows(dy, chunks[i].t0, chunks[i].n), out.carry, out);
    ResetBackward(rule, in, chunks[i].t0, out);
  }
  if (rule.round_operands) Round(out.q), Round(out.k), Round(out.v);
  return out;
}

}  // namespace mnemo::memory_reference
