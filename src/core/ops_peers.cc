#include "src/core/ops_internal.h"
#include "src/core/peers.h"

namespace mnemo {

using internal::RecordOne;

// Each is the derivative of the other: what every peer reads alike collects a gradient from each of
// them, and each part of a sum has the gradient of the sum.

Var SpreadToPeers(const Var& x, Peers& peers) {
  return RecordOne(Primitive::kSpreadToPeers, {x}, x.value(), {},
                   [&peers](VjpContext& c) { c.Set(0, SumOverPeers(c.grad(), peers)); });
}

Var SumOverPeers(const Var& x, Peers& peers) {
  // bf16 is added up in f32 and rounded once, so that the sum's error does not grow with the peers.
  Tensor sum = x.dtype() == DType::kBF16 ? x.value().To(DType::kF32) : x.value().Clone();
  peers.Sum(sum);
  sum = sum.To(x.dtype());
  return RecordOne(Primitive::kSumOverPeers, {x}, std::move(sum), {},
                   [&peers](VjpContext& c) { c.Set(0, SpreadToPeers(c.grad(), peers)); });
}

}  // namespace mnemo
