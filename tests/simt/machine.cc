#include "tests/simt/machine.h"

#include <algorithm>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <span>

#include "tests/simt/threads.h"

namespace mnemo::simt {

Settings settings;
Thread* current = nullptr;
Cluster cluster;

namespace {

namespace context = boost::context;

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kMostBytes = 227 << 10;  // of dynamic shared memory a block

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
      const int first = cluster.warps[warp].first;
      const size_t end = warp + 1 < warps ? cluster.warps[warp + 1].first : cluster.threads.size();
      any = RunWarp({cluster.threads.data() + first, end - first}) || any;
    }
    if (any) continue;
    if (cluster.late.empty()) DieWaiting();
    const std::function<void()> work = std::move(cluster.late.front());
    cluster.late.pop_front();
    work();
  }
  if (!cluster.late.empty()) Die("a cluster ended with bytes on their way to its shared memory");
}

// `index` of a grid or block, counted with x first.
Dim Place(const Dim& size, unsigned index) {
  return {index % size.x, index / size.x % size.y, index / size.x / size.y};
}

// Blocks first .. first + ranks - 1; what a cluster before them used is used again.
void SetUpCluster(unsigned first, int ranks, int bytes) {
  static std::vector<std::unique_ptr<Thread>> threads;
  static std::vector<std::unique_ptr<Warp>> warps;
  static std::vector<std::byte*> memories;
  const int count = static_cast<int>(block_size.count()),
            warps_each = (count + kLanes - 1) / kLanes;
  while (memories.size() < static_cast<size_t>(ranks)) {
    memories.push_back(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBlockBytes)));
    cluster.blocks.push_back(std::make_unique<Block>());
  }
  while (warps.size() < static_cast<size_t>(ranks * warps_each))
    warps.push_back(std::make_unique<Warp>());
  while (threads.size() < static_cast<size_t>(ranks * count)) {
    threads.push_back(std::make_unique<Thread>());
    threads.back()->fiber = MakeFiber();
  }
  cluster.warps.clear(), cluster.threads.clear();
  cluster.barrier = {};
  cluster.live = ranks * count;
  for (int rank = 0; rank < ranks; ++rank) {
    Block& block = *cluster.blocks[rank];
    block = {Place(grid_size, first + rank), rank, count, {}, memories[rank]};
    std::memset(block.shared, 0xff, bytes);
    for (int i = 0; i < count; ++i) {
      if (i % kLanes == 0) {
        Warp& warp = *warps[rank * warps_each + i / kLanes];
        warp.block = &block, warp.index = i / kLanes;
        warp.live = warp.groups = 0;
        warp.meeting = {};
        cluster.warps.push_back({&warp, static_cast<int>(cluster.threads.size())});
      }
      Thread& t = *threads[cluster.threads.size()];
      t.index = Place(block_size, i);
      t.lane = i % kLanes, t.block = &block, t.warp = cluster.warps.back().warp, t.done = false;
      t.watched = nullptr;
      t.copies.Clear();
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

void RunGrid(const Dim& blocks, const Dim& threads, int bytes, int ranks,
             const std::function<void()>& body) {
  if (blocks.count() == 0 || threads.count() == 0 || threads.count() > 1024 ||
      blocks.count() % ranks != 0 || bytes > static_cast<int>(kMostBytes)) {
    Die("no such grid: " + std::to_string(blocks.count()) + " blocks of " +
        std::to_string(threads.count()) + " threads and " + std::to_string(bytes) +
        " bytes in clusters of " + std::to_string(ranks));
  }
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  block_size = threads, grid_size = blocks;
  kernel = &body;
  for (unsigned first = 0; first < blocks.count(); first += ranks) {
    SetUpCluster(first, ranks, bytes);
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
