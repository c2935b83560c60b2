// How `mnemo bench` times a call.
#pragma once

#include <functional>

#include "src/core/tensor.h"

namespace mnemo {

// Seconds of one call: the median of `batches` batches, each of as many calls as take 5 ms or more,
// after one call that is not counted.
double SecondsPerCall(const std::function<void()>& call, int batches);

// Seconds of the fastest of 60 batches, each of as many calls as take 1 ms or more: of a kernel, as
// free as can be of what else the machine does.
double FastestCall(const std::function<void()>& call);

// Bytes read and written per second by copies of 64 MiB with the threads of the calling thread.
double MeasureCopyBandwidth();

// Standard normal values, the same for the same shape.
Tensor RandomTensor(const Shape& shape, DType dtype);

}  // namespace mnemo
