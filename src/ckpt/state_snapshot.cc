#include "src/ckpt/state_snapshot.h"

#include <map>
#include <new>
#include <utility>

#include "src/core/status.h"

namespace mnemo {
namespace {

// Copies begin at multiples of it, as memory of their own would.
constexpr int64_t kCopyAlignment = 64;

int64_t RoomOf(const Tensor& value) {
  const int64_t unit = kCopyAlignment / SizeOf(value.dtype());
  return (value.elements() + unit - 1) / unit * unit;
}

// What `body` returns, or why there is no memory for it.
template <typename F>
absl::Status WithMemory(F&& body) {
  try {
    body();
    return absl::OkStatus();
  } catch (const TensorError& error) {
    return error.status();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "host memory does not suffice for the copy of what is to be saved; set "
        "train.checkpoint_async = false");
  }
}

}  // namespace

bool StateSnapshot::Fits(std::span<const StatePiece> pieces) const {
  if (copies_.size() != pieces.size()) return false;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Tensor &value = pieces[i].value, &copy = copies_[i];
    if (copy.shape() != value.shape() || copy.dtype() != value.dtype()) return false;
  }
  return true;
}

// In a few large blocks, whose pages the system may give by 2 MiB each.
void StateSnapshot::Allocate(std::span<const StatePiece> pieces) {
  Release();
  std::map<DType, std::pair<int64_t, Tensor>> blocks;  // room, then place, in elements
  for (const StatePiece& piece : pieces) {
    blocks[piece.value.dtype()].first += RoomOf(piece.value);
  }
  for (auto& [dtype, block] : blocks) {
    block.second = Tensor::EmptyOnHost({block.first}, dtype, pieces[0].value.device());
    blocks_.push_back(block.second);
    block.first = 0;
  }
  for (const StatePiece& piece : pieces) {
    auto& [place, block] = blocks[piece.value.dtype()];
    copies_.push_back(
        block.Slice(0, place, place + piece.value.elements()).View(piece.value.shape()));
    place += RoomOf(piece.value);
  }
}

absl::StatusOr<std::vector<StatePiece>> StateSnapshot::Take(std::span<const StatePiece> pieces) {
  std::vector<StatePiece> copied(pieces.begin(), pieces.end());
  const absl::Status status = WithMemory([&] {
    under_way_.reset();
    if (!Fits(pieces)) Allocate(pieces);
    std::vector<Tensor> values, copies;  // of a device of its own
    for (size_t i = 0; i < pieces.size(); ++i) {
      const Tensor& value = pieces[i].value;
      copied[i].value = copies_[i];
      if (value.device() == copies_[i].device()) {
        Backend::For(value.device()).Copy(value, copies_[i]);
      } else {
        values.push_back(value.Contiguous());
        copies.push_back(copies_[i]);
      }
    }
    if (!values.empty()) {
      under_way_ = Backend::For(values[0].device()).StartCopiesToHost(values, copies);
    }
  });
  if (status.ok()) return copied;
  Release();
  return status;
}

absl::Status StateSnapshot::Wait() const {
  if (under_way_ == nullptr) return absl::OkStatus();
  return WithMemory([&] { under_way_->Wait(); });
}

absl::Status StateSnapshot::Reserve(std::span<const StatePiece> pieces) {
  const absl::Status status = WithMemory([&] {
    if (!Fits(pieces)) Allocate(pieces);
  });
  if (!status.ok()) Release();
  return status;
}

int64_t StateSnapshot::bytes() const {
  int64_t bytes = 0;
  for (const Tensor& block : blocks_) bytes += block.bytes();
  return bytes;
}

void StateSnapshot::Release() {
  under_way_.reset();
  copies_.clear();
  blocks_.clear();
}

}  // namespace mnemo
