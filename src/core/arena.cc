#include "src/core/arena.h"

#include <algorithm>
#include <limits>

#include "src/core/status.h"

namespace mnemo {
namespace {

double Gib(int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 30); }

int64_t RoundUp(int64_t bytes) {
  return std::max<int64_t>(1, (bytes + Arena::kGranule - 1) / Arena::kGranule) * Arena::kGranule;
}

}  // namespace

Arena::Arena(std::string name, Source source, int64_t limit, int64_t first_block)
    : name_(std::move(name)),
      source_(std::move(source)),
      first_block_(RoundUp(first_block)),
      limit_(limit) {}

Arena::~Arena() {
  for (const auto& [place, block] : blocks_) source_.release(block.data, block.bytes);
}

Arena::Piece Arena::Allocate(int64_t bytes) {
  MNEMO_CHECK(bytes >= 0);
  const int64_t size = RoundUp(bytes);
  std::lock_guard lock(mutex_);
  int64_t place = TakeFree(size);
  if (place < 0) {
    if (!Grow(size)) {
      ReleaseFreeBlocks();
      if (!Grow(size)) Exhausted(size);
    }
    place = TakeFree(size);
  }
  use_.current_bytes += size;
  use_.peak_bytes = std::max(use_.peak_bytes, use_.current_bytes);
  const auto block = std::prev(blocks_.upper_bound(place));
  return {block->second.data + (place - block->first), place};
}

void Arena::Free(int64_t place) {
  std::lock_guard lock(mutex_);
  const auto range = ranges_.find(place);
  MNEMO_CHECK(range != ranges_.end() && !range->second.free, "no piece in use at {}", place);
  use_.current_bytes -= range->second.bytes;
  MakeFree(place);
}

void Arena::Reserve(int64_t bytes) {
  std::lock_guard lock(mutex_);
  const int64_t missing = bytes - held_;
  if (missing <= 0) return;
  if ((limit_ > 0 && held_ + RoundUp(missing) > limit_) || !AddBlock(RoundUp(missing))) {
    Exhausted(RoundUp(missing));
  }
}

void Arena::SetLimit(int64_t bytes) {
  std::lock_guard lock(mutex_);
  limit_ = bytes;
}

MemoryUse Arena::use() const {
  std::lock_guard lock(mutex_);
  return use_;
}

void Arena::ResetPeak() {
  std::lock_guard lock(mutex_);
  use_.peak_bytes = use_.current_bytes;
}

int64_t Arena::held_bytes() const {
  std::lock_guard lock(mutex_);
  return held_;
}

int64_t Arena::largest_free_bytes() const {
  std::lock_guard lock(mutex_);
  return LargestFree();
}

// First as much again as is held, which bounds the number of blocks; then only what is needed.
bool Arena::Grow(int64_t bytes) {
  const int64_t room =
      limit_ > 0 ? (limit_ - held_) / kGranule * kGranule : std::numeric_limits<int64_t>::max();
  if (bytes > room) return false;
  const int64_t wanted = std::min(room, std::max({bytes, held_, first_block_}));
  return AddBlock(wanted) || (wanted > bytes && AddBlock(bytes));
}

bool Arena::AddBlock(int64_t bytes) {
  void* data = source_.get(bytes);
  if (data == nullptr) return false;
  const int64_t place = next_block_;
  next_block_ += bytes + kGranule;  // the gap keeps ranges of different blocks apart
  held_ += bytes;
  blocks_[place] = {static_cast<char*>(data), bytes};
  ranges_[place] = {bytes, true};
  free_.emplace(bytes, place);
  return true;
}

void Arena::ReleaseFreeBlocks() {
  for (auto block = blocks_.begin(); block != blocks_.end();) {
    const auto range = ranges_.find(block->first);
    if (!range->second.free || range->second.bytes != block->second.bytes) {
      ++block;
      continue;
    }
    free_.erase({range->second.bytes, range->first});
    ranges_.erase(range);
    held_ -= block->second.bytes;
    source_.release(block->second.data, block->second.bytes);
    block = blocks_.erase(block);
  }
}

int64_t Arena::TakeFree(int64_t bytes) {
  const auto found = free_.lower_bound({bytes, -1});
  if (found == free_.end()) return -1;
  const auto [size, place] = *found;
  free_.erase(found);
  ranges_[place] = {bytes, false};
  if (size > bytes) {
    ranges_[place + bytes] = {size - bytes, true};
    free_.emplace(size - bytes, place + bytes);
  }
  return place;
}

void Arena::MakeFree(int64_t place) {
  auto range = ranges_.find(place);
  const auto next = std::next(range);
  if (next != ranges_.end() && next->second.free &&
      next->first == range->first + range->second.bytes) {
    free_.erase({next->second.bytes, next->first});
    range->second.bytes += next->second.bytes;
    ranges_.erase(next);
  }
  if (range != ranges_.begin()) {
    const auto before = std::prev(range);
    if (before->second.free && before->first + before->second.bytes == range->first) {
      free_.erase({before->second.bytes, before->first});
      before->second.bytes += range->second.bytes;
      ranges_.erase(range);
      range = before;
    }
  }
  range->second.free = true;
  free_.emplace(range->second.bytes, range->first);
}

void Arena::Exhausted(int64_t bytes) const {
  const std::string limit =
      limit_ > 0 ? fmt::format("the limit is {:.2f} GiB", Gib(limit_)) : "the device has no more";
  throw TensorError(absl::ResourceExhaustedError(fmt::format(
      "{}: no memory for {:.3f} GiB more: {:.2f} GiB are in use, {:.2f} GiB are held, of which the "
      "largest free piece is {:.3f} GiB, and {}; a smaller batch or slice, more recomputation or "
      "more ranks take less (mnemo plan shows what needs how much)",
      name_, Gib(bytes), Gib(use_.current_bytes), Gib(held_), Gib(LargestFree()), limit)));
}

}  // namespace mnemo
