// Host memory for tensors. Freed blocks are kept in free lists by size class: a training step
// allocates the same sizes again and again, and fresh pages from the kernel cost more than many of
// the loops that fill them.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "src/core/backend.h"

namespace mnemo {

// Thread-safe. Blocks are 64-byte aligned. Under the address and thread sanitizers nothing is
// cached and sizes are not rounded, so that they see every use after free and every overrun.
class CachingAllocator {
 public:
  ~CachingAllocator();

  // Never null; throws TensorError (ResourceExhausted) when the machine has no memory left.
  void* Allocate(int64_t bytes);
  void Free(void* block, int64_t bytes);  // bytes as given to Allocate

  MemoryUse use() const;
  void ResetPeak();

  // At most this many bytes are kept for reuse.
  static constexpr int64_t kCacheLimit = int64_t{4} << 30;

 private:
  static constexpr int kClasses = 4 * 48;

  struct FreeList {
    std::mutex mutex;
    std::vector<void*> blocks;
  };

  void ReleaseCache();

  FreeList lists_[kClasses];
  std::atomic<int64_t> cached_bytes_{0};
  std::atomic<int64_t> current_bytes_{0};
  std::atomic<int64_t> peak_bytes_{0};
};

}  // namespace mnemo
