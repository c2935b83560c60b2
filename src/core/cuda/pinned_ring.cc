#include "src/core/cuda/pinned_ring.h"

#include <algorithm>
#include <cstring>

#include "src/core/cuda/check.h"

namespace mnemo::cuda {

PinnedRing::PinnedRing() {
  void* memory = nullptr;
  MNEMO_CUDA(cudaHostAlloc(&memory, kSlots * kSlotBytes, cudaHostAllocDefault));
  memory_ = static_cast<char*>(memory);
  for (int i = 0; i < kSlots; ++i) {
    slots_[i].data = memory_ + i * kSlotBytes;
    MNEMO_CUDA(cudaEventCreateWithFlags(&slots_[i].read, cudaEventDisableTiming));
  }
}

PinnedRing::~PinnedRing() {
  for (const Slot& slot : slots_) {
    cudaEventSynchronize(slot.read);
    cudaEventDestroy(slot.read);
  }
  cudaFreeHost(memory_);
}

// An event that was never recorded counts as reached.
void PinnedRing::NextSlot(cudaStream_t stream) {
  MNEMO_CUDA(cudaEventRecord(slots_[current_].read, stream));
  current_ = (current_ + 1) % kSlots;
  used_ = 0;
  MNEMO_CUDA(cudaEventSynchronize(slots_[current_].read));
}

void PinnedRing::Copy(const void* host, int64_t bytes, void* device, cudaStream_t stream) {
  constexpr int64_t kAlignment = 256;
  const auto* from = static_cast<const char*>(host);
  auto* to = static_cast<char*>(device);
  std::lock_guard lock(mutex_);
  while (bytes > 0) {
    // What fits a slot is not split: many small copies would each become two.
    if (used_ == kSlotBytes || (bytes <= kSlotBytes && used_ + bytes > kSlotBytes)) {
      NextSlot(stream);
    }
    const int64_t piece = std::min(bytes, kSlotBytes - used_);
    char* staged = slots_[current_].data + used_;
    std::memcpy(staged, from, piece);
    MNEMO_CUDA(cudaMemcpyAsync(to, staged, piece, cudaMemcpyHostToDevice, stream));
    used_ = std::min(kSlotBytes, (used_ + piece + kAlignment - 1) / kAlignment * kAlignment);
    from += piece;
    to += piece;
    bytes -= piece;
  }
}

}  // namespace mnemo::cuda
