#include "src/core/fused/memory_scan.h"
#include "src/core/ops.h"

namespace mnemo {
namespace {

Tensor Identity(int64_t n, const Var& like) {
  std::vector<double> values(n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) values[i * n + i] = 1;
  return Tensor::FromHost(values, {n, n}, like.dtype(), like.device());
}

// A column [.., n, 1] that is `gate` in its first row and zero below: what starts a product of
// gates when it enters a LinearScan as the added term.
Var FirstRow(const Var& gate) { return PadSlice(Slice(gate, -2, 0, 1), -2, 0, gate.dim(-2)); }

}  // namespace

// Two first-order recurrences along the tokens, each over all its columns at once:
// [P | E] with coefficient eta, then [G | B | A] with coefficient 1 - alpha.
MemoryCoefficients ComputeCoefficients(const MemoryRule& rule, const Var& theta, const Var& eta,
                                       const Var& alpha) {
  const int64_t n = theta.dim(-2);
  MemoryCoefficients result;
  Var added = Mul(theta, Var(Identity(n, theta)));  // diag(theta)
  if (rule.momentum) {
    const Var start[] = {added, FirstRow(eta)};
    added = LinearScan(eta, Concat(start, -1));  // [P | E]
    const int64_t sizes[] = {n, 1};
    const std::vector<Var> parts = Split(added, -1, sizes);
    result.p = parts[0];
    result.e = parts[1];
  } else {
    result.p = added;
  }
  Var decay;
  if (rule.forgetting == Forgetting::kNever) {
    decay = Var(Tensor::Full({1, 1}, 1, theta.dtype(), theta.device()));
  } else {
    decay = Affine(alpha, -1, 1);
    const Var start[] = {added, FirstRow(decay)};
    added = Concat(start, -1);
  }
  const Var sums = LinearScan(decay, added);  // [G | B | A], B and A where they exist
  std::vector<int64_t> sizes{n};
  if (rule.momentum) sizes.push_back(1);
  if (rule.forgetting != Forgetting::kNever) sizes.push_back(1);
  const std::vector<Var> parts = Split(sums, -1, sizes);
  result.g = parts[0];
  if (rule.momentum) result.b = parts[1];
  if (rule.forgetting != Forgetting::kNever) result.a = parts.back();
  return result;
}

}  // namespace mnemo
