// What of this process lies in the machine's memory: the kernel's account, with code, libraries and
// what the allocator keeps, beside the backends' own (Backend::Memory).
#pragma once

#include <cstdint>
#include <optional>

namespace mnemo {

struct ResidentMemory {
  int64_t now = 0;   // bytes
  int64_t peak = 0;  // since the process began
};

// Null where the kernel does not say (/proc/self/status).
std::optional<ResidentMemory> ReadResidentMemory();

}  // namespace mnemo
