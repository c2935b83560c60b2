#include "src/core/fused/cross_entropy.h"

#include <algorithm>

#include "src/core/fused/fused_ops.h"
#include "src/core/ops.h"
#include "src/core/peers.h"

namespace mnemo {
namespace {

// log(sum(exp(x))) over the last dim, kept with size 1. The maximum is a constant to the tape: its
// derivative cancels.
Var LogSumExp(const Var& x) {
  const Var maximum(MaxOverLast(x.value()));
  return Add(Log(Sum(Exp(Sub(x, maximum)), -1)), maximum);
}

// Entries up to here are exact in f32, in which targets are computed with on their device.
constexpr int64_t kMostEntries = int64_t{1} << 24;

// Targets counted from a tile's first entry; those of other tiles fall outside [0, size).
Tensor Shifted(const Tensor& targets, int64_t begin) {
  if (begin == 0) return targets;
  const Var numbers = Cast(Var(targets), DType::kF32);
  return Affine(numbers, 1, -static_cast<double>(begin)).value().To(DType::kI32);
}

// 1 where a target is not negative, [N, 1].
Tensor ValidMask(const Tensor& targets, DType dtype) {
  const Var numbers = Cast(Var(targets), dtype);
  return Step(Affine(numbers, 1, 0.5)).value().Reshape({targets.dim(0), 1});
}

// For each row of x: the log of the sum of exp(logit) over the head's entries, and the target's
// logit (0 where the target is not among them).
std::vector<Var> Compose(std::span<const Var> inputs, const CrossEntropyAttributes& attributes) {
  const Var &x = inputs[0], &head = inputs[1];
  const int64_t vocabulary = head.dim(0);
  std::vector<int64_t> sizes;
  for (int64_t begin = 0; begin < vocabulary; begin += attributes.tile) {
    sizes.push_back(std::min(attributes.tile, vocabulary - begin));
  }
  const std::vector<Var> tiles = Split(head, 0, sizes);
  std::vector<Var> sums;
  Var picked;
  int64_t begin = 0;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const Tensor ids = Shifted(attributes.targets, begin);
    const auto body = [ids](std::span<const Var> parts) -> std::vector<Var> {
      const Var logits = WideMatMul(parts[0], Transpose(parts[1]));
      return {LogSumExp(logits), PickColumns(logits, ids)};
    };
    const Var parts[] = {x, tiles[i]};
    const std::vector<Var> result = tiles.size() > 1 ? Rematerialized(body, parts) : body(parts);
    sums.push_back(result[0]);
    picked = i == 0 ? result[1] : Add(picked, result[1]);
    begin += sizes[i];
  }
  return {sums.size() == 1 ? sums[0] : LogSumExp(Concat(sums, 1)), picked};
}

// Listed from the start of the program, not from the first call.
[[maybe_unused]] const FusedOpBase* const cross_entropy_ops[] = {&CrossEntropyOp(),
                                                                 &CrossEntropyGradientOp()};

CrossEntropyGradients Differentiate(const Tensor& x, const Tensor& head, const Tensor& targets,
                                    int64_t tile, double scale, const VocabularyPart& part) {
  Tape tape;
  const Tensor head_sum = Tensor::Zeros(head.shape(), WideType(head.dtype()), head.device());
  const Var rows = tape.Leaf(x), entries = tape.Leaf(head, head_sum);
  const Var losses = CrossEntropy(rows, entries, targets, tile, part);
  const Tensor seed = Tensor::Full(losses.shape(), scale, losses.dtype(), losses.device());
  const Var wrt[] = {rows, entries};
  return {losses.value(), tape.Gradient({&losses, 1}, {&seed, 1}, wrt)[0], head_sum};
}

std::vector<Var> ComposeGradients(std::span<const Var> inputs,
                                  const CrossEntropyGradientAttributes& attributes) {
  CrossEntropyGradients all =
      Differentiate(inputs[0].value(), inputs[1].value(), attributes.targets, attributes.tile,
                    attributes.scale, {});
  return {Var(all.losses), Var(all.x), Var(all.head)};
}

// The same two over the heads of all peers. Each puts its sum into a column of its own, so that
// adding up gathers them.
std::vector<Var> Combine(const std::vector<Var>& own, Peers& peers) {
  const int64_t count = peers.count();
  const Var mine[] = {PadSlice(own[0], 1, peers.index(), count), own[1]};
  const Var all = SumOverPeers(Concat(mine, 1), peers);
  return {LogSumExp(Slice(all, 1, 0, count)), Slice(all, 1, count, count + 1)};
}

void CheckCall(const Tensor& x, const Tensor& head, const Tensor& targets, int64_t tile) {
  Require(x.rank() == 2 && head.rank() == 2 && x.dim(1) == head.dim(1) && tile >= 1,
          "cross_entropy: rows {} and head {}", x.shape(), head.shape());
  Require(targets.rank() == 1 && targets.dim(0) == x.dim(0) && targets.dtype() == DType::kI32,
          "cross_entropy: targets {} for rows {}", targets.shape(), x.shape());
}

void CheckTargets(const Tensor& targets, int64_t vocabulary) {
  Require(vocabulary <= kMostEntries, "cross_entropy: a vocabulary of {}, more than {}", vocabulary,
          kMostEntries);
  if (targets.device().type != DeviceType::kCpu) return;  // reading them would wait
  for (const int32_t id : targets.ToInts()) {
    Require(id < vocabulary, "cross_entropy: target {} in a vocabulary of {}", id, vocabulary);
  }
}

}  // namespace

FusedOp<CrossEntropyAttributes>& CrossEntropyOp() {
  static FusedOp<CrossEntropyAttributes> op("cross_entropy", &Compose);
  return op;
}

FusedOp<CrossEntropyGradientAttributes>& CrossEntropyGradientOp() {
  static FusedOp<CrossEntropyGradientAttributes> op("cross_entropy_gradient", &ComposeGradients);
  return op;
}

CrossEntropyGradients CrossEntropyWithGradients(const Tensor& x, const Tensor& head,
                                                const Tensor& targets, int64_t tile, double scale,
                                                const VocabularyPart& part) {
  if (part.peers != nullptr) return Differentiate(x, head, targets, tile, scale, part);
  CheckCall(x, head, targets, tile);
  CheckTargets(targets, head.dim(0));
  const Var inputs[] = {Var(x), Var(head)};
  const std::vector<Var> all = CrossEntropyGradientOp()(inputs, {targets, tile, scale});
  return {all[0].value(), all[1].value(), all[2].value()};
}

Var CrossEntropy(const Var& x, const Var& head, const Tensor& targets, int64_t tile,
                 const VocabularyPart& part) {
  CheckCall(x.value(), head.value(), targets, tile);
  const bool split = part.peers != nullptr;
  CheckTargets(targets, split ? part.vocabulary : head.dim(0));
  const Var inputs[] = {split ? SpreadToPeers(x, *part.peers) : x, head};
  const Tensor own = split ? Shifted(targets, part.first) : targets;
  std::vector<Var> sums = CrossEntropyOp()(inputs, {own, tile});
  if (split) sums = Combine(sums, *part.peers);
  const DType dtype = sums[0].dtype();
  return Where(ValidMask(targets, dtype), Sub(sums[0], sums[1]),
               Var(Tensor::Zeros({}, dtype, x.device())));
}

}  // namespace mnemo
