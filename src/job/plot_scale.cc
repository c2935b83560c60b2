#include "src/job/plot_scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace mnemo {
namespace {

constexpr double kRoom = 0.04;  // of the range of losses, above and below

AxisRange RangeOf(const LossCurves& curves, double (*value)(const LossPoint&)) {
  AxisRange range;
  bool first = true;
  for (const auto* series : {&curves.train, &curves.held_out}) {
    for (const LossPoint& point : *series) {
      range.low = first ? value(point) : std::min(range.low, value(point));
      range.high = first ? value(point) : std::max(range.high, value(point));
      first = false;
    }
  }
  return range;
}

LossPoint MeanOf(const std::vector<LossPoint>& points, size_t begin, size_t end) {
  double step = 0, loss = 0;
  for (size_t i = begin; i < end; ++i) {
    step += static_cast<double>(points[i].step);
    loss += points[i].loss;
  }
  const double count = static_cast<double>(end - begin);
  return {std::llround(step / count), loss / count};
}

}  // namespace

std::vector<LossPoint> FinitePoints(const std::vector<LossPoint>& points) {
  std::vector<LossPoint> finite;
  std::copy_if(points.begin(), points.end(), std::back_inserter(finite),
               [](const LossPoint& point) { return std::isfinite(point.loss); });
  return finite;
}

AxisRange StepRange(const LossCurves& finite) {
  AxisRange range =
      RangeOf(finite, [](const LossPoint& point) { return static_cast<double>(point.step); });
  if (range.low == range.high) range.high += 1;
  return range;
}

AxisRange LossRange(const LossCurves& finite) {
  AxisRange range = RangeOf(finite, [](const LossPoint& point) { return point.loss; });
  const double room = range.low == range.high ? 0.5 : kRoom * (range.high - range.low);
  return {range.low - room, range.high + room};
}

std::vector<double> Ticks(const AxisRange& range, int count) {
  const double rough = (range.high - range.low) / std::max(1, count);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double distance = 10 * power;
  for (double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) {
      distance = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  const double slack = 1e-9 * distance;  // a tick on the edge counts
  for (double i = std::ceil((range.low - slack) / distance); i * distance <= range.high + slack;
       ++i) {
    ticks.push_back(i * distance);
  }
  return ticks;
}

std::string TickLabel(double value, double distance) {
  const char* unit = "";
  if (distance >= 1e5) {
    unit = "M", value /= 1e6, distance /= 1e6;
  } else if (distance >= 1e3) {
    unit = "k", value /= 1e3, distance /= 1e3;
  }
  const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(distance) + 1e-9)));
  if (std::abs(value) < distance * 1e-6) value = 0;  // never "-0"
  return fmt::format("{:.{}f}{}", value, digits, value == 0 ? "" : unit);
}

std::vector<LossPoint> Smoothed(const std::vector<LossPoint>& points, size_t width) {
  std::vector<LossPoint> smooth(points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    // A window that shrinks towards both ends, so that no end is pulled towards the middle.
    const size_t reach = std::min({width / 2, i, points.size() - 1 - i});
    smooth[i] = {points[i].step, MeanOf(points, i - reach, i + reach + 1).loss};
  }
  return smooth;
}

std::vector<LossPoint> Thinned(const std::vector<LossPoint>& points, size_t count) {
  if (points.size() <= count) return points;
  std::vector<LossPoint> thin;
  for (size_t i = 0; i < count; ++i) {
    thin.push_back(MeanOf(points, i * points.size() / count, (i + 1) * points.size() / count));
  }
  return thin;
}

}  // namespace mnemo
