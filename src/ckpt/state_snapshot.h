// A copy of a rank's state in host memory, so that training can change the state while the copy is
// written.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "src/ckpt/checkpoint_writer.h"
#include "src/core/backend.h"
#include "src/core/tensor.h"

namespace mnemo {

// One thread calls it, but Wait().
class StateSnapshot {
 public:
  // Copies the values of `pieces`, on any device, and returns the pieces with the copies in place
  // of the values. The copies are good until the next call, which takes their memory again where
  // shapes and dtypes are the same: so no page is new but the first time. ResourceExhausted if
  // memory does not suffice.
  //
  // What lies on a GPU is copied beside the kernels that follow: until Wait() has returned, nothing
  // may change the values or read the copies.
  absl::StatusOr<std::vector<StatePiece>> Take(std::span<const StatePiece> pieces);
  // Whether the last copies may still be on their way.
  bool under_way() const { return under_way_ != nullptr; }
  // On any thread, several at once too, but not beside a call of the others. At once where nothing
  // is on its way.
  absl::Status Wait() const;

  // Takes the memory for such pieces, so that the first Take() need not. Page-locked for a GPU,
  // which takes a second for some GB.
  absl::Status Reserve(std::span<const StatePiece> pieces);
  int64_t bytes() const;  // of memory held
  void Release();

 private:
  bool Fits(std::span<const StatePiece> pieces) const;
  void Allocate(std::span<const StatePiece> pieces);

  std::vector<Tensor> blocks_;  // one for each dtype
  std::vector<Tensor> copies_;  // parts of these
  std::unique_ptr<HostCopies> under_way_;
};

}  // namespace mnemo
