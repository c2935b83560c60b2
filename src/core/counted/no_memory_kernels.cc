// Stands in for the memory scan's kernels where the build has none, for plans alone.
#include "src/core/counted/memory_scan_sizes.h"

namespace mnemo {

bool MemoryScanSupports(const MemoryScanShape& shape) { return counted::MemoryScanSupports(shape); }
size_t MemoryScanForwardWorkspace(const MemoryScanShape& shape) {
  return counted::MemoryScanForwardWorkspace(shape);
}
size_t MemoryScanBackwardWorkspace(const MemoryScanShape& shape) {
  return counted::MemoryScanBackwardWorkspace(shape);
}
size_t MemoryScanCheckpointBytes(const MemoryScanShape& shape) {
  return counted::MemoryScanCheckpointBytes(shape);
}

}  // namespace mnemo
