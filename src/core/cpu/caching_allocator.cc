#include "src/core/cpu/caching_allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>

namespace mnemo {
namespace {

constexpr int64_t kAlignment = 64;
// Blocks from here on are aligned to, and ask for, huge pages: fewer faults and TLB misses.
constexpr int64_t kHuge = int64_t{4} << 20;
constexpr int64_t kHugePage = int64_t{2} << 20;
// More than any process can address: refused here, as sanitizers abort on such a request.
constexpr int64_t kAddressSpace = int64_t{1} << 47;

int64_t SizeOfClass(int size_class) {
  if (size_class < 4) return 64 * (size_class + 1);
  int log = size_class / 4 + 7;
  return (int64_t{1} << log) + (int64_t{size_class % 4 + 1} << (log - 2));
}

void* SystemAllocate(int64_t bytes) {
  if (bytes > kAddressSpace) return nullptr;
  void* block = nullptr;
  int64_t alignment = bytes >= kHuge ? kHugePage : kAlignment;
  if (posix_memalign(&block, alignment, std::max<int64_t>(bytes, 1)) != 0) return nullptr;
  if (alignment == kHugePage) madvise(block, bytes, MADV_HUGEPAGE);  // a hint: may fail
  return block;
}

}  // namespace

// 64 bytes, then four to each doubling, so that at most a fifth is wasted.
int CachingAllocator::ClassOf(int64_t bytes) {
  if (bytes <= 256) return static_cast<int>(std::max<int64_t>(bytes + 63, 64) / 64) - 1;
  int log = std::bit_width(static_cast<uint64_t>(bytes - 1)) - 1;  // 2^log < bytes <= 2^(log+1)
  int quarter = static_cast<int>((bytes - 1) >> (log - 2) & 3);
  return 4 * (log - 7) + quarter;
}

CachingAllocator::~CachingAllocator() { ReleaseCache(); }

void* CachingAllocator::Allocate(int64_t bytes) {
  MNEMO_CHECK(bytes >= 0, "bytes {}", bytes);
  void* block = nullptr;
  int64_t size = bytes;
  int size_class = ClassOf(bytes);
  if (cache_limit_ > 0 && size_class < kClasses) {
    size = SizeOfClass(size_class);
    FreeList& list = lists_[size_class];
    std::lock_guard<std::mutex> lock(list.mutex);
    if (!list.blocks.empty()) {
      block = list.blocks.back();
      list.blocks.pop_back();
      cached_bytes_.fetch_sub(size, std::memory_order_relaxed);
    }
  }
  if (block == nullptr) block = SystemAllocate(size);
  if (block == nullptr) {
    ReleaseCache();
    block = SystemAllocate(size);
  }
  if (block == nullptr) {
    throw TensorError(absl::ResourceExhaustedError(fmt::format(
        "the host has no memory for a tensor of {} bytes; {} bytes are in use. Use shorter slices, "
        "fewer micro-batches or more rematerialisation",
        bytes, current_bytes_.load())));
  }
  int64_t current = current_bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t peak = peak_bytes_.load(std::memory_order_relaxed);
  while (current > peak &&
         !peak_bytes_.compare_exchange_weak(peak, current, std::memory_order_relaxed)) {
  }
  return block;
}

void CachingAllocator::Free(void* block, int64_t bytes) {
  current_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  int size_class = ClassOf(bytes);
  if (cache_limit_ > 0 && size_class < kClasses) {
    int64_t size = SizeOfClass(size_class);
    if (cached_bytes_.fetch_add(size, std::memory_order_relaxed) + size <= cache_limit_) {
      FreeList& list = lists_[size_class];
      std::lock_guard<std::mutex> lock(list.mutex);
      list.blocks.push_back(block);
      return;
    }
    cached_bytes_.fetch_sub(size, std::memory_order_relaxed);
  }
  std::free(block);
}

MemoryUse CachingAllocator::use() const { return {current_bytes_.load(), peak_bytes_.load()}; }

void CachingAllocator::ResetPeak() { peak_bytes_.store(current_bytes_.load()); }

void CachingAllocator::ReleaseCache() {
  for (int i = 0; i < kClasses; ++i) {
    std::lock_guard<std::mutex> lock(lists_[i].mutex);
    std::vector<void*>& blocks = lists_[i].blocks;
    for (void* block : blocks) std::free(block);
    // Only now: the count is never below what the lists hold, so that the limit holds as well.
    cached_bytes_.fetch_sub(SizeOfClass(i) * static_cast<int64_t>(blocks.size()));
    blocks.clear();
  }
}

}  // namespace mnemo
