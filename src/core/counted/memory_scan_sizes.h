// What the memory scan's kernels cover and take (cuda/memory/memory_scan.h), told without them: a
// build that has them compares the two (tests/core/cuda/memory_scan_sizes_test.cc).
#pragma once

#include "src/core/cuda/memory/memory_scan.h"

namespace mnemo::counted {

bool MemoryScanSupports(const MemoryScanShape& shape);
size_t MemoryScanForwardWorkspace(const MemoryScanShape& shape);
size_t MemoryScanBackwardWorkspace(const MemoryScanShape& shape);
size_t MemoryScanCheckpointBytes(const MemoryScanShape& shape);

}  // namespace mnemo::counted
