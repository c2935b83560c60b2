#include "src/ckpt/state_snapshot.h"

#include <new>

#include "src/core/backend.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

void CopyToHost(const Tensor& value, const Tensor& host) {
  if (value.device() == host.device()) {
    Backend::For(host.device()).Copy(value, host);
  } else if (value.elements() > 0) {
    Backend::For(value.device()).CopyToHost(value.Contiguous(), host.raw());
  }
}

}  // namespace

absl::StatusOr<std::vector<StatePiece>> StateSnapshot::Take(std::span<const StatePiece> pieces) {
  try {
    copies_.resize(pieces.size());
    std::vector<StatePiece> copied(pieces.begin(), pieces.end());
    for (size_t i = 0; i < pieces.size(); ++i) {
      const Tensor& value = pieces[i].value;
      Tensor& copy = copies_[i];
      if (!copy.defined() || copy.shape() != value.shape() || copy.dtype() != value.dtype()) {
        copy = Tensor::Empty(value.shape(), value.dtype());
      }
      CopyToHost(value, copy);
      copied[i].value = copy;
    }
    return copied;
  } catch (const TensorError& error) {
    Release();
    return error.status();
  } catch (const std::bad_alloc&) {
    Release();
    return absl::ResourceExhaustedError(
        "host memory does not suffice for the copy of what is to be saved; set "
        "train.checkpoint_async = false");
  }
}

}  // namespace mnemo
