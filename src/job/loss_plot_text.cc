// LossCurveText of loss_plot.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "src/job/loss_plot.h"
#include "src/job/plot_scale.h"

namespace mnemo {
namespace {

// A character of the plot: dots of a braille cell (Unicode 2800 to 28FF), or a mark above them.
struct Cell {
  uint8_t dots = 0;
  bool held_out = false;
};

// The bit of a braille dot, by column (0, 1) and row (0 to 3).
constexpr uint8_t kDot[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};

std::string BrailleUtf8(uint8_t dots) {
  return {'\xe2', static_cast<char>(0xa0 | (dots >> 6)), static_cast<char>(0x80 | (dots & 0x3f))};
}

std::string Draw(const Cell& cell, bool unicode) {
  if (cell.held_out) return "o";
  if (cell.dots == 0) return " ";
  return unicode ? BrailleUtf8(cell.dots) : ".";
}

// Column or row of a share of [0, 1] on a grid of so many.
int Place(double share, int count) {
  return std::clamp(static_cast<int>(share * count), 0, count - 1);
}

class Grid {
 public:
  Grid(int columns, int rows) : columns_(columns), rows_(rows), cells_(columns * rows) {}

  // x and y in [0, 1], y upwards.
  void Dot(double x, double y) {
    const int column = Place(x, 2 * columns_), row = Place(1 - y, 4 * rows_);
    At(column / 2, row / 4).dots |= kDot[column % 2][row % 4];
  }
  void Mark(double x, double y) { At(Place(x, columns_), Place(1 - y, rows_)).held_out = true; }

  // Dots close enough for no gap to show.
  void Segment(double x0, double y0, double x1, double y1) {
    const double reach = std::max(std::abs(x1 - x0) * 2 * columns_, std::abs(y1 - y0) * 4 * rows_);
    const int count = 1 + static_cast<int>(reach);
    for (int i = 0; i <= count; ++i) {
      const double t = static_cast<double>(i) / count;
      Dot(x0 + t * (x1 - x0), y0 + t * (y1 - y0));
    }
  }

  std::string Row(int row, bool unicode) const {
    std::string line;
    for (int column = 0; column < columns_; ++column) {
      line += Draw(cells_[row * columns_ + column], unicode);
    }
    return line;
  }

 private:
  Cell& At(int column, int row) { return cells_[row * columns_ + column]; }

  int columns_, rows_;
  std::vector<Cell> cells_;
};

// The row that a tick belongs to has its label; the others have none.
std::vector<std::string> RowLabels(const AxisRange& losses, int rows) {
  std::vector<std::string> labels(rows);
  const std::vector<double> ticks = Ticks(losses, std::max(2, rows / 3));
  const double distance = ticks.size() > 1 ? ticks[1] - ticks[0] : 1;
  for (double tick : ticks) labels[Place(1 - losses.Share(tick), rows)] = TickLabel(tick, distance);
  return labels;
}

std::string Trimmed(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

std::string LossCurveText(const LossCurves& curves, bool unicode, TextPlotSize size) {
  const LossCurves finite{curves.title, FinitePoints(curves.train), FinitePoints(curves.held_out)};
  if (finite.train.empty() && finite.held_out.empty()) return curves.title + ": no points\n";
  constexpr int kLabel = 7;
  const int columns = std::max(24, size.columns) - kLabel - 2, rows = std::max(4, size.rows);
  const AxisRange steps = StepRange(finite), losses = LossRange(finite);
  auto x = [&](const LossPoint& p) { return steps.Share(static_cast<double>(p.step)); };
  auto y = [&](const LossPoint& p) { return losses.Share(p.loss); };
  Grid grid(columns, rows);
  const std::vector<LossPoint> train = Thinned(finite.train, 2 * columns);
  for (size_t i = 0; i < train.size(); ++i) {
    const LossPoint& from = train[i == 0 ? 0 : i - 1];
    grid.Segment(x(from), y(from), x(train[i]), y(train[i]));
  }
  for (const LossPoint& point : finite.held_out) grid.Mark(x(point), y(point));

  const std::vector<std::string> labels = RowLabels(losses, rows);
  const char* wall = unicode ? "\u2502" : "|";
  const char* floor = unicode ? "\u2500" : "-";
  std::string out = curves.title + "  (loss in nats a token" +
                    (finite.held_out.empty() ? "" : ", o held-out") + ")\n";
  for (int row = 0; row < rows; ++row) {
    out += Trimmed(fmt::format("{:>{}} {}{}", labels[row], kLabel, wall, grid.Row(row, unicode)));
  }
  out += std::string(kLabel + 1, ' ') + (unicode ? "\u2514" : "+");
  for (int column = 0; column < columns; ++column) out += floor;
  const std::string last = fmt::format("step {:.0f}", steps.high);
  return out + "\n" + std::string(kLabel + 2, ' ') +
         fmt::format("{:<{}.0f}{}\n", steps.low, columns - static_cast<int>(last.size()), last);
}

bool TerminalTakesUnicode() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    std::string lower(value);
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
  }
  return false;
}

}  // namespace mnemo
