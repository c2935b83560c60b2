// Those that compute parts of the same tensors elsewhere, as far as a computation must know them:
// how parts are added up (ops.h: SpreadToPeers, SumOverPeers). Who they are, and how they talk, is
// for whoever implements it (src/parallel/ranks.h).
#pragma once

#include "src/core/tensor.h"

namespace mnemo {

// Every peer runs the same operations in the same order, derivatives and pieces run again
// (rematerialisation) included: nothing that a tape does may then depend on values that differ
// between peers. One thread at a time.
class Peers {
 public:
  virtual ~Peers() = default;
  virtual int count() const = 0;
  virtual int index() const = 0;  // this one's: 0 <= index < count

  // x = the sum of all peers' x, taken in the order of their indices: bitwise the same at every
  // peer. `x` is contiguous and has one shape everywhere; on the CPU it is f32 or f64. Waits for
  // the others. Throws TensorError if they do not come.
  virtual void Sum(const Tensor& x) = 0;
};

}  // namespace mnemo
