#include "src/core/cuda/memory_scan_traffic.h"

#include "src/core/cuda/memory/memory_buffers.h"

namespace mnemo::cuda {

MemoryScanTraffic MemoryScanTrafficOf(const MemoryScanShape& shape) {
  constexpr double kHalf = 2;  // bytes
  const double blocks = static_cast<double>(memory::chunk_count(shape) * shape.batch * shape.heads);
  const double states = kHalf * blocks * static_cast<double>(memory::state_elements(shape));
  const double kept =
      kHalf * blocks *
      static_cast<double>(memory::record_elements(shape) + memory::extra_record_elements(shape));
  const double rows = kHalf * static_cast<double>(shape.batch * shape.tokens * shape.heads) *
                      static_cast<double>(shape.head_dim);
  return {2 * states + 6 * rows, 3 * states + 2 * kept + 9 * rows,
          4 * states + 2 * kept + 13 * rows};
}

}  // namespace mnemo::cuda
