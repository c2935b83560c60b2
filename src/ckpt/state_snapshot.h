// A copy of a rank's state in host memory, so that training can change the state while the copy is
// written.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "src/ckpt/checkpoint_writer.h"
#include "src/core/tensor.h"

namespace mnemo {

class StateSnapshot {
 public:
  // Copies the values of `pieces`, on any device, and returns the pieces with the copies in place
  // of the values. The copies are good until the next call, which takes their memory again where
  // shapes and dtypes are the same: so no page is new but the first time. ResourceExhausted if
  // memory does not suffice.
  absl::StatusOr<std::vector<StatePiece>> Take(std::span<const StatePiece> pieces);
  void Release() { copies_.clear(); }

 private:
  std::vector<Tensor> copies_;
};

}  // namespace mnemo
