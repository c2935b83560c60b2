// Shared memory, barriers in it, and asynchronous copies.
#include <algorithm>
#include <cstring>

#include "tests/simt/threads.h"

namespace mnemo::simt {
namespace {

constexpr int kTagShift = 24;
constexpr uint32_t kStatic = 0x80;  // tags from here on: a kernel's static arrays, by number

// A barrier in shared memory, as the eight bytes that a kernel gives it.
struct Barrier {
  uint32_t state;  // bit 0 the phase's parity, then 15 bits each: arrivals of a phase, still due
  int32_t bytes;   // announced and not yet here

  int due() const { return static_cast<int>(state >> 16); }
  void Check() {
    if (due() != 0 || bytes != 0) return;
    const uint32_t count = (state >> 1) & 0x7fff;
    state = (count << 16) | (count << 1) | ((state & 1) ^ 1);
  }
};
static_assert(sizeof(Barrier) == 8);

Barrier& BarrierAt(uint32_t address) { return *reinterpret_cast<Barrier*>(AtAddress(address)); }

std::vector<const std::byte*>& StaticArrays() {
  static std::vector<const std::byte*> arrays;
  return arrays;
}

// To shared memory, with its bytes counted: now, or when no thread can go on otherwise.
void Deliver(uint32_t to, std::vector<std::byte> bytes, uint32_t barrier) {
  std::byte* const target = AtAddress(to);
  Barrier* const counted = &BarrierAt(barrier);
  auto arrive = [target, counted, data = std::move(bytes)] {
    std::memcpy(target, data.data(), data.size());
    counted->bytes -= static_cast<int32_t>(data.size());
    counted->Check();
  };
  if (settings.late) {
    cluster.late.emplace_back(std::move(arrive));
  } else {
    arrive();
  }
}

}  // namespace

std::byte* SharedMemory() { return current->block->shared; }

uint32_t SharedAddress(const void* p) {
  const auto* at = static_cast<const std::byte*>(p);
  if (at >= SharedMemory() && at < SharedMemory() + kBlockBytes)
    return static_cast<uint32_t>(at - SharedMemory());
  // A static array is at one place for all blocks, which run one after another.
  constexpr ptrdiff_t kReach = 1 << 16;
  std::vector<const std::byte*>& arrays = StaticArrays();
  size_t i = 0;
  while (i < arrays.size() && (at < arrays[i] || at >= arrays[i] + kReach)) ++i;
  if (i == arrays.size()) arrays.push_back(at);
  return ((kStatic + static_cast<uint32_t>(i)) << kTagShift) |
         static_cast<uint32_t>(at - arrays[i]);
}

uint32_t AddressInRank(uint32_t address, uint32_t rank) {
  return address | ((rank + 1) << kTagShift);
}

std::byte* AtAddress(uint32_t address) {
  const uint32_t tag = address >> kTagShift, offset = address & ((1u << kTagShift) - 1);
  if (tag >= kStatic) return const_cast<std::byte*>(StaticArrays()[tag - kStatic]) + offset;
  if (offset >= kBlockBytes) Die("an address outside of shared memory");
  return (tag == 0 ? current->block->shared : cluster.blocks[tag - 1]->shared) + offset;
}

void BarrierInit(uint32_t address, int count) {
  BarrierAt(address) = {static_cast<uint32_t>(count) << 16 | static_cast<uint32_t>(count) << 1, 0};
}

void BarrierArrive(uint32_t address, uint32_t expected_bytes) {
  Barrier& barrier = BarrierAt(address);
  if (barrier.due() == 0) Die("a thread arrives at a barrier that expects no more of them");
  barrier.bytes += static_cast<int32_t>(expected_bytes);
  barrier.state -= 1u << 16;
  barrier.Check();
}

void BarrierWait(uint32_t address, uint32_t parity) {
  WaitWhile("a barrier in shared memory", &BarrierAt(address).state, 1, parity & 1);
}

void Copy::Run() const {
  std::memcpy(to, from, bytes);
  std::memset(to + bytes, 0, zeros);
}

void Copies::Add(const Copy& copy) {
  if (settings.late) {
    open_.push_back(copy);
  } else {
    copy.Run();
  }
}

void Copies::Commit() {
  if (settings.late) groups_.push_back(std::move(open_));
  open_.clear();
}

void Copies::Finish(int pending) {
  for (; groups_.size() > static_cast<size_t>(pending); groups_.pop_front())
    for (const Copy& copy : groups_.front()) copy.Run();
}

void CopyAsync(uint32_t to, const void* from, int size, int valid) {
  current->copies.Add({AtAddress(to), static_cast<const std::byte*>(from),
                       static_cast<size_t>(valid), static_cast<size_t>(size - valid)});
}
void CopyCommit() { current->copies.Commit(); }
void CopyWait(int pending) { current->copies.Finish(pending); }

void BulkLoad(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0 || to % 16 != 0 || bytes % 16 != 0)
    Die("a bulk copy that is not 16-byte aligned");
  const auto* source = static_cast<const std::byte*>(from);
  Deliver(to, {source, source + bytes}, barrier);
}

void Send(uint32_t to, const void* bytes, uint32_t size, uint32_t barrier) {
  const auto* source = static_cast<const std::byte*>(bytes);
  Deliver(to, {source, source + size}, barrier);
}

void BulkStore(void* to, uint32_t from, uint32_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || from % 16 != 0 || bytes % 16 != 0)
    Die("a bulk copy that is not 16-byte aligned");
  current->stores.Add({static_cast<std::byte*>(to), AtAddress(from), bytes, 0});
}
void BulkCommit() { current->stores.Commit(); }
void BulkWait(int pending) { current->stores.Finish(pending); }

}  // namespace mnemo::simt
