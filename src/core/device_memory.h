// The memory of a device as a whole: what there is, what is free, and taking it before a run needs
// it.
#pragma once

#include <cstdint>
#include <optional>

#include "src/core/tensor.h"

namespace mnemo {

struct DeviceMemory {
  int64_t total = 0;  // bytes
  int64_t free = 0;   // of these, what tensors of this process may still take
};
// Null for the CPU, whose memory is the machine's. Opens a GPU: throws TensorError, one line, where
// that cannot be done (no GPU, one that the program was not built for, a driver too old).
std::optional<DeviceMemory> MemoryOf(Device device);

// Takes so many bytes from the driver at once, those of tensors that are there included, so that no
// step waits for it. Nothing on the CPU. Throws TensorError (ResourceExhausted) if there are not so
// many.
void ReserveMemory(Device device, int64_t bytes);

}  // namespace mnemo
