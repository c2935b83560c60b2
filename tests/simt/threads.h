// What the stand-in's files share: threads, warps, blocks, the cluster that runs. Internal to
// tests/simt.
#pragma once

#include <array>
#include <boost/context/fiber.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/simt/machine.h"

namespace mnemo::simt {

constexpr int kLanes = 32;
constexpr size_t kBlockBytes = 256
                               << 10;  // of a block's shared memory; descriptors reach no further

// Threads meet here: all go on once the last has come.
struct Meeting {
  uint32_t generation = 0;
  int arrived = 0;
};

struct Copy {
  std::byte* to;
  const std::byte* from;
  size_t bytes, zeros;
  void Run() const;
};

// Asynchronous copies of one thread, in groups.
class Copies {
 public:
  void Add(const Copy& copy);
  void Commit();
  void Finish(int pending);  // all groups but the last so many
  void Clear() { *this = {}; }
  bool empty() const { return groups_.empty() && open_.empty(); }

 private:
  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;
};

struct PendingProduct {
  Product product;  // of lane 0
  std::array<float*, kLanes> d;
  std::array<std::array<uint32_t, 4>, kLanes> a_registers;
  int warp;  // of the warpgroup
  const std::byte* shared;
  int group;
  std::vector<float> before;  // what the sums were, where late

  void Run();
};

struct Warp {
  Block* block;
  int index;  // of the block
  int live = 0;
  Meeting meeting;
  const char* what = nullptr;  // the instruction they meet at
  std::byte slots[2][kLanes][Lanes::kSlot];
  uint32_t present[2];  // lanes that came
  int groups = 0;       // of products, committed
  std::deque<PendingProduct> products;
};

struct Thread {
  Dim index;
  int lane = 0;
  Warp* warp = nullptr;
  Block* block = nullptr;
  bool done = true;
  // Waits as long as (*watched & mask) == seen; for what.
  const uint32_t* watched = nullptr;
  uint32_t mask = 0, seen = 0;
  const char* waits_for = nullptr;
  Copies copies, stores;
  boost::context::fiber fiber;
};

struct Block {
  Dim index;
  int rank = 0;
  int live = 0;
  std::array<Meeting, 16> barriers;
  std::byte* shared = nullptr;
};

// The cluster that runs.
struct Cluster {
  struct Place {
    Warp* warp;
    int first;  // of its threads
  };
  std::vector<std::unique_ptr<Block>> blocks;  // as many as any cluster had
  std::vector<Place> warps;
  std::vector<Thread*> threads;
  Meeting barrier;
  int live = 0;
  std::deque<std::function<void()>> late;  // bytes on their way to shared memory
};
extern Cluster cluster;

// Ends the program.
[[noreturn]] void Die(const std::string& what);

// Until (*watched & mask) != seen.
void WaitWhile(const char* what, const uint32_t* watched, uint32_t mask, uint32_t seen);

// The calling thread joins `expected` others.
void Meet(const char* what, Meeting& meeting, int expected);

}  // namespace mnemo::simt
