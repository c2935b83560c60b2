// A device that only counts: storage has a size and no contents, kernels return at once, host
// copies are zeros. Running code on it tells, in milliseconds, what memory the same code takes
// elsewhere: how the planner knows the size of a unit of work.
#pragma once

#include "src/core/backend.h"

namespace mnemo {

inline constexpr DeviceType kCountingDeviceType = static_cast<DeviceType>(2);
// Composes all fused ops.
inline constexpr Device kCountingDevice{kCountingDeviceType, 0};
// The same, with the copies that the CPU takes for bf16 (cpu/widening_backend.h).
inline constexpr Device kCountingCpu{kCountingDeviceType, 1};

// A GPU: memory in pieces of an arena, scratch of its kernels, and fused ops by kernels of their
// own, which take and keep what those of cuda/ do (counted/). A type of its own, since kernels of
// fused ops are registered by type.
inline constexpr DeviceType kCountingGpuType = static_cast<DeviceType>(3);
inline constexpr Device kCountingGpu{kCountingGpuType, 0};

// Memory() is of the calling thread and of all these devices; the thread must also free what it
// allocates.
Backend& CountingBackend(Device device = kCountingDevice);

// What the allocator of the CPU would hold after the calling thread's allocations, blocks in use
// and blocks kept for reuse (cpu/caching_allocator.h): of each class as many as were ever in use at
// once. Above the peak in use, since the classes peak at different times.
int64_t CountedHeldBytes();
// As if nothing had been kept so far.
void ResetCountedHeldBytes();

}  // namespace mnemo
