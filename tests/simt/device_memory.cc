#include <atomic>
#include <cstdlib>
#include <cstring>

#include "tests/simt/machine.h"

namespace mnemo::simt {
namespace {

constexpr size_t kHeader = 1024;  // in front of what is handed out: how much it is

std::atomic<size_t> allocated = 0;

}  // namespace

void* Allocate(size_t bytes) {
  bytes = (bytes + kHeader - 1) / kHeader * kHeader + kHeader;
  if (allocated.fetch_add(bytes) + bytes > kDeviceBytes) {
    allocated -= bytes;
    return nullptr;
  }
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kHeader, bytes));
  std::memcpy(memory, &bytes, sizeof(bytes));
  return memory + kHeader;
}

void Free(void* p) {
  if (p == nullptr) return;
  std::byte* memory = static_cast<std::byte*>(p) - kHeader;
  size_t bytes;
  std::memcpy(&bytes, memory, sizeof(bytes));
  allocated -= bytes;
  std::free(memory);
}

size_t AllocatedBytes() { return allocated; }

}  // namespace mnemo::simt
