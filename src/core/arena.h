// Device memory taken from the driver in large blocks and handed out in pieces.
//
// Best fit, the lowest address among equals, free neighbours joined at once: the same calls give
// the same places. Pieces are multiples of 512 bytes and begin at such multiples of their block.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "src/core/backend.h"

namespace mnemo {

// Thread-safe. Every call takes O(log n) for n pieces, unless it asks the source.
class Arena {
 public:
  static constexpr int64_t kGranule = 512;
  static constexpr int64_t kFirstBlock = int64_t{64} << 20;

  // Where blocks come from. `get` returns null if there is no memory of that size (and is asked
  // for less then); what it returns is aligned to the granule.
  struct Source {
    std::function<void*(int64_t bytes)> get;
    std::function<void(void* block, int64_t bytes)> release;
  };
  // `name` is of the device, for messages. The blocks held never exceed `limit` bytes; 0: as much
  // as the source gives. A new block is as large as all held so far, if it can be, and at least
  // `first_block`.
  Arena(std::string name, Source source, int64_t limit = 0, int64_t first_block = kFirstBlock);
  ~Arena();  // releases the blocks, pieces in use included
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  struct Piece {
    void* data = nullptr;
    // Names the piece; within one block pieces are as far apart as their places, and pieces of
    // different blocks never follow one another.
    int64_t place = 0;
  };
  // Uninitialised memory, never null; 0 bytes take a granule. If there is none, blocks that are
  // wholly free are given back and the source is asked again; then it throws TensorError
  // (ResourceExhausted).
  Piece Allocate(int64_t bytes);
  void Free(int64_t place);

  // Takes one more block so that at least `bytes` are held, for pieces that then need no growth.
  // Throws as Allocate does.
  void Reserve(int64_t bytes);
  // For what is taken from here on. Below what is held it only stops the growth.
  void SetLimit(int64_t bytes);

  MemoryUse use() const;  // of pieces, rounded up to granules
  void ResetPeak();
  int64_t held_bytes() const;  // of blocks
  int64_t largest_free_bytes() const;

 private:
  struct Range {
    int64_t bytes;
    bool free;
  };
  struct Block {
    char* data;
    int64_t bytes;
  };

  // All of these with the mutex held.
  bool Grow(int64_t bytes);
  bool AddBlock(int64_t bytes);
  void ReleaseFreeBlocks();
  int64_t TakeFree(int64_t bytes);  // -1: none fits
  void MakeFree(int64_t place);
  int64_t LargestFree() const { return free_.empty() ? 0 : free_.rbegin()->first; }
  [[noreturn]] void Exhausted(int64_t bytes) const;

  const std::string name_;
  const Source source_;
  const int64_t first_block_;
  mutable std::mutex mutex_;
  int64_t limit_;
  std::map<int64_t, Block> blocks_;             // by the place of their first byte
  std::map<int64_t, Range> ranges_;             // by place; they cover the blocks
  std::set<std::pair<int64_t, int64_t>> free_;  // bytes and place
  int64_t next_block_ = 0;                      // place of the next block
  int64_t held_ = 0;
  MemoryUse use_;
};

}  // namespace mnemo
