// The loss curve of a run, as a picture and in the terminal. Pure functions of the points.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mnemo {

struct LossPoint {
  int64_t step = 0;
  double loss = 0;  // nats a token; points that are not finite are left out
};

// Steps ascend within a series. Either series may be empty.
struct LossCurves {
  std::string title;
  std::vector<LossPoint> train;
  std::vector<LossPoint> held_out;
};

// A standalone SVG document. The training series is drawn thin as it was measured, and heavy
// averaged over about a fortieth of the run; the held-out series with a mark at each point.
std::string LossCurveSvg(const LossCurves& curves);

struct TextPlotSize {
  int columns = 72;  // of the whole plot, labels included; at least 24
  int rows = 14;     // of the drawing, without the axis; at least 4
};

// Lines of text, each ended by a newline. `unicode` draws the training series with braille dots,
// eight to a character; otherwise with '.'. Held-out points are 'o'.
std::string LossCurveText(const LossCurves& curves, bool unicode, TextPlotSize size = {});

// Whether the environment (LC_ALL, LC_CTYPE, LANG, the first that is set) asks for UTF-8.
bool TerminalTakesUnicode();

}  // namespace mnemo
