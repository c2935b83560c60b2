// Stands in for the memory scan's kernels where the build has none, for plans alone.
#include "src/core/cuda/memory/memory_buffers.h"

namespace mnemo {

bool MemoryScanSupports(const MemoryScanShape& shape) { return memory::supports(shape); }

size_t MemoryScanForwardWorkspace(const MemoryScanShape& shape, bool retain) {
  return memory::plan_forward<uint16_t>(shape, retain, nullptr).bytes;
}

size_t MemoryScanBackwardWorkspace(const MemoryScanShape& shape, bool retain) {
  return memory::plan_backward<uint16_t>(shape, retain, nullptr).bytes;
}

size_t MemoryScanRetainedBytes(const MemoryScanShape& shape) {
  size_t bytes;
  memory::plan_retained<uint16_t>(shape, nullptr, 0, bytes);
  return memory::segment_count(shape) * bytes;
}

size_t MemoryScanCheckpointBytes(const MemoryScanShape& shape) {
  return memory::segment_count(shape) * shape.batch * shape.heads * memory::carry_elements(shape) *
         sizeof(float);
}

}  // namespace mnemo
