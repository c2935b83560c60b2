// Axes: the range that some points cover and round numbers to write beside it.
#pragma once

#include <string>
#include <vector>

#include "src/job/loss_plot.h"

namespace mnemo {

// `points` without those whose loss is not finite.
std::vector<LossPoint> FinitePoints(const std::vector<LossPoint>& points);

struct AxisRange {
  double low = 0, high = 1;  // low < high
  // Where `value` lies, 0 at low and 1 at high.
  double Share(double value) const { return (value - low) / (high - low); }
};

// The range of steps, and that of losses with a little room above and below, over both series. A
// range of one value is widened. 0 to 1 without points.
AxisRange StepRange(const LossCurves& finite);
AxisRange LossRange(const LossCurves& finite);

// At most about `count` multiples of 1, 2 or 5 times a power of ten within the range, at least one
// where the range holds any.
std::vector<double> Ticks(const AxisRange& range, int count);

// As short as the distance between ticks allows: "0.25", "3", "20k", "1.5M".
std::string TickLabel(double value, double distance);

// Means over windows of `width` points.
std::vector<LossPoint> Smoothed(const std::vector<LossPoint>& points, size_t width);

// At most `count` points: means over runs of neighbours.
std::vector<LossPoint> Thinned(const std::vector<LossPoint>& points, size_t count);

}  // namespace mnemo
