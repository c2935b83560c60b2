// How much memory a process may still take on this machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace mnemo {

// Bytes: what the kernel counts as available, or what the control groups (v1 or v2) of this process
// still allow if that is less. Null where neither is known. `root` stands before /proc and /sys,
// for tests.
std::optional<int64_t> AvailableMemory(const std::string& root = "");

}  // namespace mnemo
