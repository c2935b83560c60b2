// Peers that all hold what the one at hand holds: a sum over them is a multiple. Derivatives
// through parts that begin with SpreadToPeers and end with SumOverPeers can be checked with these
// on one rank.
#pragma once

#include "src/core/backend.h"
#include "src/core/peers.h"

namespace mnemo::testing {

class MirrorPeers : public Peers {
 public:
  explicit MirrorPeers(int count, int index = 0) : count_(count), index_(index) {}
  int count() const override { return count_; }
  int index() const override { return index_; }
  void Sum(const Tensor& x) override {
    std::vector<double> values = x.ToDoubles();
    for (double& value : values) value *= count_;
    Backend::For(x.device()).Copy(Tensor::FromHost(values, x.shape(), x.dtype(), x.device()), x);
  }

 private:
  int count_, index_;
};

}  // namespace mnemo::testing
