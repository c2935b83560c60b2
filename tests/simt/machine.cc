#include "tests/simt/machine.h"

#include <algorithm>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <span>

#include "tests/simt/threads.h"

namespace mnemo::simt {

Settings settings;
Thread* current = nullptr;
Cluster cluster;

namespace {

namespace context = boost::context;

constexpr size_t kStackBytes = 256 << 10;

context::fiber scheduler;  // where a thread that waits goes
const std::function<void()>* kernel = nullptr;
Dim block_size, grid_size;

std::string Describe(const Thread& t) {
  return "block " + std::to_string(t.block->index.x) + ", thread " + std::to_string(t.index.x);
}

// Whom an ended thread leaves waiting.
void Leave(Meeting& meeting, int live) {
  if (meeting.arrived == 0 || meeting.arrived != live) return;
  meeting.arrived = 0, ++meeting.generation;
}

void EndThread(Thread& t) {
  if (!t.stores.empty()) Die("a thread ended while its stores may still read shared memory");
  Warp& w = *t.warp;
  t.done = true;
  Leave(w.meeting, --w.live);
  Leave(t.block->barriers[0], --t.block->live);
  Leave(cluster.barrier, --cluster.live);
  if (w.live == 0 && !w.products.empty()) Die("a warp ended before its matrix products");
}

context::fiber MakeFiber() {
  return context::fiber(std::allocator_arg, context::protected_fixedsize_stack(kStackBytes),
                        [](context::fiber&& from) {
                          scheduler = std::move(from);
                          for (;;) {
                            (*kernel)();
                            EndThread(*current);
                            scheduler = std::move(scheduler).resume();
                          }
                          return context::fiber();
                        });
}

bool IsReady(const Thread& t) {
  return !t.done && (t.watched == nullptr || (*t.watched & t.mask) != t.seen);
}

// As far as its lanes come. Whether any of them went on.
bool RunWarp(std::span<Thread* const> lanes) {
  bool any = false;
  for (bool again = true; again;) {
    again = false;
    for (Thread* t : lanes) {
      if (!IsReady(*t)) continue;
      t->watched = nullptr;
      current = t;
      t->fiber = std::move(t->fiber).resume();
      again = any = true;
    }
  }
  current = nullptr;
  return any;
}

[[noreturn]] void DieWaiting() {
  std::map<std::string, std::pair<int, const Thread*>> waiting;
  for (const Thread* t : cluster.threads) {
    if (t->done) continue;
    auto& [count, first] = waiting[t->waits_for];
    if (count++ == 0) first = t;
  }
  std::string all = "no thread can go on:";
  for (const auto& [what, who] : waiting) {
    all +=
        " " + std::to_string(who.first) + " at " + what + " (first: " + Describe(*who.second) + ")";
  }
  Die(all);
}

void RunCluster() {
  const size_t warps = cluster.warps.size();
  while (cluster.live > 0) {
    bool any = false;
    for (size_t i = 0; i < warps; ++i) {
      const size_t warp = settings.backwards ? warps - 1 - i : i;
      const size_t first = warp * kLanes;
      const size_t count = std::min<size_t>(kLanes, cluster.threads.size() - first);
      any = RunWarp({cluster.threads.data() + first, count}) || any;
    }
    if (any) continue;
    if (cluster.late.empty()) DieWaiting();
    const std::function<void()> work = std::move(cluster.late.front());
    cluster.late.pop_front();
    work();
  }
  if (!cluster.late.empty()) Die("a cluster ended with bytes on their way to its shared memory");
}

// Blocks first .. first + ranks - 1 with `threads` threads each.
void SetUpCluster(int first, int ranks, int threads) {
  static std::vector<std::unique_ptr<Thread>> pool;
  static std::vector<std::byte*> memories;
  while (memories.size() < static_cast<size_t>(ranks))
    memories.push_back(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBlockBytes)));
  cluster = {};
  cluster.live = ranks * threads;
  for (int rank = 0; rank < ranks; ++rank) {
    cluster.blocks.push_back(std::make_unique<Block>());
    Block& block = *cluster.blocks.back();
    block.index.x = first + rank, block.index.y = block.index.z = 0;
    block.rank = rank, block.live = threads, block.shared = memories[rank];
    std::memset(block.shared, 0xff, kBlockBytes);
    for (int i = 0; i < threads; ++i) {
      if (i % kLanes == 0) {
        cluster.warps.push_back(std::make_unique<Warp>());
        cluster.warps.back()->block = &block, cluster.warps.back()->index = i / kLanes;
      }
      const size_t number = cluster.threads.size();
      if (number == pool.size()) {
        pool.push_back(std::make_unique<Thread>());
        pool.back()->fiber = MakeFiber();
      }
      Thread& t = *pool[number];
      t.index = {static_cast<unsigned>(i), 0, 0};
      t.lane = i % kLanes, t.block = &block, t.warp = cluster.warps.back().get(), t.done = false;
      t.watched = nullptr, t.copies.Clear();
      ++t.warp->live;
      cluster.threads.push_back(&t);
    }
  }
}

}  // namespace

void Die(const std::string& what) {
  const std::string where = current == nullptr ? "" : " (" + Describe(*current) + ")";
  std::fprintf(stderr, "simt: error: %s%s\n", what.c_str(), where.c_str());
  std::abort();
}

const Dim& ThreadIndex() { return current->index; }
const Dim& BlockIndex() { return current->block->index; }
const Dim& BlockSize() { return block_size; }
const Dim& GridSize() { return grid_size; }

void RunGrid(int blocks, int threads, int bytes, int ranks, const std::function<void()>& body) {
  if (blocks <= 0 || threads <= 0 || threads > 1024 || blocks % ranks != 0 ||
      bytes > static_cast<int>(kBlockBytes) - 29 * 1024) {
    Die("no such grid: " + std::to_string(blocks) + " blocks of " + std::to_string(threads) +
        " threads and " + std::to_string(bytes) + " bytes in clusters of " + std::to_string(ranks));
  }
  block_size.x = threads, grid_size.x = blocks;
  kernel = &body;
  for (int first = 0; first < blocks; first += ranks) {
    SetUpCluster(first, ranks, threads);
    RunCluster();
  }
}

void WaitWhile(const char* what, const uint32_t* watched, uint32_t mask, uint32_t seen) {
  Thread& t = *current;
  if ((*watched & mask) != seen) return;
  t.watched = watched, t.mask = mask, t.seen = seen, t.waits_for = what;
  scheduler = std::move(scheduler).resume();
}

void Meet(const char* what, Meeting& meeting, int expected) {
  const uint32_t generation = meeting.generation;
  if (++meeting.arrived == expected) {
    meeting.arrived = 0, ++meeting.generation;
  } else {
    WaitWhile(what, &meeting.generation, ~0u, generation);
  }
}

Lanes Exchange(const char* what, const void* mine, size_t size) {
  Warp& w = *current->warp;
  const int slot = w.meeting.generation & 1;
  if (w.meeting.arrived == 0) {
    w.what = what, w.present[slot] = 0;
  } else if (w.what != what && std::strcmp(w.what, what) != 0) {
    Die(std::string("lanes of a warp are at different instructions: ") + w.what + ", " + what);
  }
  w.present[slot] |= 1u << current->lane;
  std::memcpy(w.slots[slot][current->lane], mine, size);
  Meet(what, w.meeting, w.live);
  return {w.slots[slot][0], w.present[slot]};
}

int Lane() { return current->lane; }

void BlockBarrier(int number, int threads) {
  Block& block = *current->block;
  Meet("a barrier of the block", block.barriers[number], number == 0 ? block.live : threads);
}

void ClusterBarrier() { Meet("the cluster's barrier", cluster.barrier, cluster.live); }
unsigned ClusterRank() { return static_cast<unsigned>(current->block->rank); }

}  // namespace mnemo::simt
