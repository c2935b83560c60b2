// Copies from the host that do not wait for the GPU: values go through page-locked memory, which
// the copy engine reads on its own while the caller goes on.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <mutex>

namespace mnemo::cuda {

// Of one GPU, which is current in every call. Thread-safe.
class PinnedRing {
 public:
  static constexpr int kSlots = 8;
  static constexpr int64_t kSlotBytes = int64_t{2} << 20;

  PinnedRing();
  ~PinnedRing();
  PinnedRing(const PinnedRing&) = delete;

  // `host` has been read when it returns; `device` is written in the order of the stream. Waits
  // only where more than the ring holds is still on its way.
  void Copy(const void* host, int64_t bytes, void* device, cudaStream_t stream);

 private:
  struct Slot {
    char* data = nullptr;
    cudaEvent_t read = nullptr;  // recorded after the last copy out of it
  };
  void NextSlot(cudaStream_t stream);

  std::mutex mutex_;
  Slot slots_[kSlots];
  char* memory_ = nullptr;
  int current_ = 0;
  int64_t used_ = 0;  // of the current slot
};

}  // namespace mnemo::cuda
