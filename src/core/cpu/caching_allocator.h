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

// Thread-safe. Blocks are 64-byte aligned.
class CachingAllocator {
 public:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  // Nothing is cached, so that the sanitizer sees every use after free and every overrun.
  static constexpr int64_t kDefaultCacheLimit = 0;
#else
  static constexpr int64_t kDefaultCacheLimit = int64_t{4} << 30;
#endif

  // Keeps at most `cache_limit` bytes of freed blocks for reuse. With 0 it keeps none and does not
  // round sizes up to those of the classes.
  explicit CachingAllocator(int64_t cache_limit = kDefaultCacheLimit) : cache_limit_(cache_limit) {}
  ~CachingAllocator();  // blocks that are still in use stay valid and are never freed
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  // Never null; throws TensorError (ResourceExhausted) when the machine has no memory left, also
  // not after giving up the cache.
  void* Allocate(int64_t bytes);
  void Free(void* block, int64_t bytes);  // bytes as given to Allocate

  // Blocks are kept for reuse by class; the classes divide sizes as the free lists do.
  static int ClassOf(int64_t bytes);

  MemoryUse use() const;  // of blocks in use, as asked for; the cache does not count
  int64_t cached_bytes() const { return cached_bytes_.load(); }
  void ResetPeak();

 private:
  static constexpr int kClasses = 4 * 48;

  struct FreeList {
    std::mutex mutex;
    std::vector<void*> blocks;
  };

  void ReleaseCache();

  const int64_t cache_limit_;
  FreeList lists_[kClasses];
  std::atomic<int64_t> cached_bytes_{0};
  std::atomic<int64_t> current_bytes_{0};
  std::atomic<int64_t> peak_bytes_{0};
};

}  // namespace mnemo
