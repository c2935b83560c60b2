// How `mnemo bench` times a call.
#pragma once

#include <functional>
#include <vector>

#include "src/core/tensor.h"

namespace mnemo {

// The upper median of one value or more.
double Median(std::vector<double> values);

// Seconds of one call: the median of `batches` batches, each of as many calls as take 5 ms or more,
// after one call that is not counted.
double SecondsPerCall(const std::function<void()>& call, int batches);

// Seconds of the fastest of 60 batches, each of as many calls as take 1 ms or more: of a kernel, as
// free as can be of what else the machine does.
double FastestCall(const std::function<void()>& call);

// Seconds of one call of what a device does in the background: the median of seven lots of calls,
// each of 30 ms or more and ended by `wait`, which then counts little, after one that is not
// counted.
double MedianCall(const std::function<void()>& call, const std::function<void()>& wait);

// Returns when `device` has done all that it was given.
void WaitFor(Device device);

// Bytes read and written per second by large copies: of 64 MiB with the threads of the calling
// thread, of 1 GiB on a GPU.
double MeasureCopyBandwidth(Device device = {});

// Standard normal values, the same for the same shape.
Tensor RandomTensor(const Shape& shape, DType dtype);

}  // namespace mnemo
