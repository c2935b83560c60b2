// LossCurveSvg of loss_plot.h.
#include <fmt/format.h>

#include <cstddef>

#include "src/job/loss_plot.h"
#include "src/job/plot_scale.h"
#include "src/job/svg.h"

namespace mnemo {
namespace {

constexpr double kWidth = 800, kHeight = 450;
constexpr double kLeft = 64, kRight = 24, kTop = 48, kBottom = 52;
constexpr size_t kMaxPoints = 1000;  // of a drawn series; more are not seen at this width
constexpr size_t kWindows = 40;      // smoothing windows along the run
constexpr char kTrainColor[] = "#1f6fb4", kHeldOutColor[] = "#d9541e";

// Where a point lies on the paper; y counts from the top.
struct Paper {
  AxisRange steps, losses;
  double X(double step) const { return kLeft + steps.Share(step) * (kWidth - kLeft - kRight); }
  double Y(double loss) const {
    return kHeight - kBottom - losses.Share(loss) * (kHeight - kTop - kBottom);
  }
};

double DistanceOf(const std::vector<double>& ticks) {
  return ticks.size() > 1 ? ticks[1] - ticks[0] : 1;
}

std::string Axes(const Paper& paper) {
  const double bottom = kHeight - kBottom;
  std::string out = "<g font-size=\"12\" fill=\"#444\">\n";
  const std::vector<double> losses = Ticks(paper.losses, 7), steps = Ticks(paper.steps, 9);
  for (double loss : losses) {
    out += SvgLine(kLeft, paper.Y(loss), kWidth - kRight, paper.Y(loss), "#e4e4e4");
    out += SvgText(kLeft - 8, paper.Y(loss) + 4, "end", TickLabel(loss, DistanceOf(losses)));
  }
  for (double step : steps) {
    out += SvgLine(paper.X(step), bottom, paper.X(step), bottom + 5, "#888");
    out += SvgText(paper.X(step), bottom + 20, "middle", TickLabel(step, DistanceOf(steps)));
  }
  out += SvgLine(kLeft, bottom, kWidth - kRight, bottom, "#888");
  out += SvgText((kLeft + kWidth - kRight) / 2, kHeight - 12, "middle", "step");
  out += fmt::format(
      "<text transform=\"translate(18 {:.1f}) rotate(-90)\" text-anchor=\"middle\">"
      "loss (nats a token)</text>\n",
      (kTop + bottom) / 2);
  return out + "</g>\n";
}

std::string Polyline(const Paper& paper, const std::vector<LossPoint>& points, const char* color,
                     double width, double opacity) {
  if (points.size() < 2) return "";
  std::string out = "<polyline fill=\"none\" stroke-linejoin=\"round\" points=\"";
  for (const LossPoint& p : points) {
    out += fmt::format("{:.1f},{:.1f} ", paper.X(static_cast<double>(p.step)), paper.Y(p.loss));
  }
  return out + fmt::format("\" stroke=\"{}\" stroke-width=\"{}\" stroke-opacity=\"{}\"/>\n", color,
                           width, opacity);
}

std::string Marks(const Paper& paper, const std::vector<LossPoint>& points, const char* color) {
  std::string out;
  for (const LossPoint& p : points) {
    out += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\" stroke=\"white\"/>\n",
        paper.X(static_cast<double>(p.step)), paper.Y(p.loss), color);
  }
  return out;
}

std::string Legend(const LossCurves& curves) {
  std::string out = "<g font-size=\"13\">\n";
  double x = kWidth - kRight;
  auto entry = [&](const char* name, const char* color, double width) {
    out += SvgText(x, 30, "end", name);
    x -= width;
    out += fmt::format("<rect x=\"{:.1f}\" y=\"24\" width=\"16\" height=\"3\" fill=\"{}\"/>\n",
                       x - 8, color);
    x -= 28;
  };
  if (!curves.held_out.empty()) entry("held-out", kHeldOutColor, 74);
  if (!curves.train.empty()) entry("training", kTrainColor, 70);
  return out + "</g>\n";
}

}  // namespace

std::string LossCurveSvg(const LossCurves& curves) {
  LossCurves finite{curves.title, FinitePoints(curves.train), FinitePoints(curves.held_out)};
  const Paper paper{StepRange(finite), LossRange(finite)};
  const size_t window = finite.train.size() / kWindows;
  std::string out = SvgBegin(kWidth, kHeight);
  out += "<g font-size=\"16\" font-weight=\"600\">" + SvgText(kLeft, 30, "start", curves.title) +
         "</g>\n";
  out += Axes(paper) + Legend(finite);
  const bool smooth = window > 1;
  out += Polyline(paper, Thinned(finite.train, kMaxPoints), kTrainColor, smooth ? 1 : 2,
                  smooth ? 0.3 : 1);
  if (smooth) {
    out += Polyline(paper, Thinned(Smoothed(finite.train, window), kMaxPoints), kTrainColor, 2, 1);
  }
  if (finite.train.size() == 1) out += Marks(paper, finite.train, kTrainColor);
  out += Polyline(paper, finite.held_out, kHeldOutColor, 1.5, 0.8);
  out += Marks(paper, finite.held_out, kHeldOutColor);
  return out + "</svg>\n";
}

}  // namespace mnemo
