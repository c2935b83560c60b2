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
  Tensor sum = x.value().Clone();
  peers.Sum(sum);
  return RecordOne(Primitive::kSumOverPeers, {x}, std::move(sum), {},
                   [&peers](VjpContext& c) { c.Set(0, SpreadToPeers(c.grad(), peers)); });
}

}  // namespace mnemo
