// A device that only counts: storage has a size and no contents, kernels return at once, host
// copies are zeros. Running code on it tells, in milliseconds, what memory the same code takes
// elsewhere with composed operations: how the planner knows the size of a unit of work.
#pragma once

#include "src/core/backend.h"

namespace mnemo {

inline constexpr DeviceType kCountingDeviceType = static_cast<DeviceType>(2);
inline constexpr Device kCountingDevice{kCountingDeviceType, 0};

// Memory() is of the calling thread, which must also free what it allocates.
Backend& CountingBackend();

}  // namespace mnemo
