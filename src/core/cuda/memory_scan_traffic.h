// What the memory scan's kernels move through a GPU's memory: the floor of their time that their
// division of work sets. Pure arithmetic: needs no GPU.
#pragma once

#include "src/core/cuda/memory/memory_scan.h"

namespace mnemo::cuda {

// Bytes of a call, read and written. Forward: every chunk's state written and read once, and the
// tokens' rows: q, k, v, y, and k, v again. Backward: states written and read twice, what it keeps
// of every chunk written and read, and nine rows. At once (MemoryScanForwardArgs::retained): states
// written once and read three times in all. Gates, checkpoints and carries, a few percent,
// are left out. For shapes that MemoryScanSupports.
struct MemoryScanTraffic {
  double forward = 0, backward = 0, at_once = 0;
};
MemoryScanTraffic MemoryScanTrafficOf(const MemoryScanShape& shape);

}  // namespace mnemo::cuda
