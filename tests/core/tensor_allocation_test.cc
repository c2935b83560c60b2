// What an op does besides its kernel is paid several times per block and token, so it must not turn
// shapes into text or otherwise go to the heap.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "src/core/tensor.h"

namespace {
thread_local int64_t allocations = 0;
}  // namespace

// Every other form of new and delete calls these.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* block = std::malloc(bytes)) return block;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* block) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, size_t) noexcept { std::free(block); }

namespace mnemo {
namespace {

TEST(TensorAllocation, ViewsMakeNone) {
  // A shape whose text is longer than what a std::string holds in place.
  const Tensor x = Tensor::Zeros({1, 1, 1}, DType::kF32).BroadcastTo({100000001, 100000002, 3});
  const int order[] = {2, 0, 1};
  const Shape spread{7, 100000001, 100000002, 3};
  const int64_t before = allocations;
  int64_t seen = 0;
  seen += x.Transpose().dim(-1);
  seen += x.Permute(order).dim(-1);
  seen += x.Slice(1, 5, 100000000).dim(1);
  seen += x.BroadcastTo(spread).dim(0);
  seen += x.View(x.shape()).dim(2);
  seen += x.Reshape(x.shape()).dim(2);
  EXPECT_EQ(allocations - before, 0);
  EXPECT_EQ(seen, 2 * int64_t{100000002} + 99999995 + 7 + 3 + 3);
  const int64_t counted = allocations;
  EXPECT_GT(ToString(x.shape()).size(), 20u);  // the count works
  EXPECT_GT(allocations, counted);
}

}  // namespace
}  // namespace mnemo
