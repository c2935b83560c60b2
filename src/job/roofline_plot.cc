#include "src/job/roofline_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "src/job/plot_scale.h"
#include "src/job/svg.h"

namespace mnemo {
namespace {

constexpr double kPlotWidth = 720, kListWidth = 400, kWidth = kPlotWidth + kListWidth;
constexpr double kLeft = 64, kRight = 24, kTop = 56, kBottom = 56, kRow = 15.5;
constexpr double kLeastHeight = 560;
constexpr double kDecadesBeyond = 0.12;  // decades beyond the outermost points
constexpr double kMark = 4.5;            // half the size of a mark
constexpr double kLabelWidth = 13, kLabelHeight = 10;
constexpr char kRoofColor[] = "#555";
// By kind of op, in the order of OpKind.
constexpr const char* kColors[] = {"#1f6fb4", "#7a9a3a", "#d9541e", "#8a4fae"};
constexpr const char* kKinds[] = {"products", "other primitives", "fused, forward",
                                  "fused, backward"};

// Ops of one name: an entry of the list.
struct Entry {
  std::string name;
  OpKind kind;
  std::vector<const OpTime*> ops;  // by model, undefined where it has none
};

struct LabelBox {
  double x, y, width, height;
  bool Meets(const LabelBox& other) const {
    return x < other.x + other.width && other.x < x + width && y < other.y + other.height &&
           other.y < y + height;
  }
};

double Intensity(const OpTime& op) { return op.flops / op.bytes; }
double Rate(const OpTime& op) { return op.flops / op.seconds; }

class Picture {
 public:
  explicit Picture(const Roofline& roofline) : roofline_(roofline) {
    Collect();
    height_ = std::max(kLeastHeight, kTop + kBottom + kRow * static_cast<double>(entries_.size()));
    FindRanges();
  }

  std::string Draw() {
    std::string out = SvgBegin(kWidth, height_);
    out += "<g font-size=\"16\" font-weight=\"600\">" +
           SvgText(kLeft, 28, "start", roofline_.title) + "</g>\n";
    return out + Legend() + Axes() + Roof() + Marks() + Labels() + List() + "</svg>\n";
  }

 private:
  void Collect() {
    for (const OpTime& op : roofline_.ops) {
      if (!(op.flops > 0 && op.bytes > 0 && op.seconds > 0)) continue;
      if (std::find(models_.begin(), models_.end(), op.model) == models_.end()) {
        models_.push_back(op.model);
      }
    }
    for (const OpTime& op : roofline_.ops) {
      if (!(op.flops > 0 && op.bytes > 0 && op.seconds > 0)) continue;
      auto entry = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) {
        return e.name == op.name && e.kind == op.kind;
      });
      if (entry == entries_.end()) {
        entry = entries_.insert(entries_.end(), {op.name, op.kind, {}});
        entry->ops.resize(models_.size());
      }
      entry->ops[ModelOf(op)] = &op;
    }
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](const Entry& a, const Entry& b) { return a.kind < b.kind; });
  }

  size_t ModelOf(const OpTime& op) const {
    return std::find(models_.begin(), models_.end(), op.model) - models_.begin();
  }

  // The ridge, where the two roofs meet, is always in the picture.
  void FindRanges() {
    const Ceilings& ceilings = roofline_.ceilings;
    x_.low = x_.high = std::log10(ceilings.flops / ceilings.bytes);
    y_.low = y_.high = std::log10(ceilings.flops);
    for (const Entry& entry : entries_) {
      for (const OpTime* op : entry.ops) {
        if (op == nullptr) continue;
        x_ = {std::min(x_.low, std::log10(Intensity(*op))),
              std::max(x_.high, std::log10(Intensity(*op)))};
        y_ = {std::min(y_.low, std::log10(Rate(*op))), std::max(y_.high, std::log10(Rate(*op)))};
      }
    }
    x_ = {x_.low - kDecadesBeyond, x_.high + kDecadesBeyond};
    y_ = {y_.low - kDecadesBeyond, y_.high + 2 * kDecadesBeyond};  // the roof's name is above it
  }

  double X(double log) const { return kLeft + x_.Share(log) * (kPlotWidth - kLeft - kRight); }
  double Y(double log) const {
    return height_ - kBottom - y_.Share(log) * (height_ - kTop - kBottom);
  }
  std::pair<double, double> PlaceOf(const OpTime& op) const {
    return {X(std::log10(Intensity(op))), Y(std::log10(Rate(op)))};
  }

  std::string Legend() const {
    std::string out = "<g font-size=\"12\" fill=\"#444\">\n";
    double x = kLeft;
    for (size_t kind = 0; kind < std::size(kColors); ++kind) {
      out += fmt::format(
          "<rect x=\"{:.1f}\" y=\"36\" width=\"9\" height=\"9\" rx=\"2\" fill=\"{}\"/>\n", x,
          kColors[kind]);
      out += SvgText(x + 14, 45, "start", kKinds[kind]);
      x += 30 + 6.6 * static_cast<double>(std::string(kKinds[kind]).size());
    }
    for (size_t model = 0; model < models_.size() && models_.size() > 1; ++model) {
      out += Mark(x + 5, 41, model, "#666");
      out += SvgText(x + 14, 45, "start", models_[model]);
      x += 30 + 6.6 * static_cast<double>(models_[model].size());
    }
    return out + "</g>\n";
  }

  std::string Axes() const {
    const double bottom = height_ - kBottom, right = kPlotWidth - kRight;
    std::string out = "<g font-size=\"12\" fill=\"#444\">\n";
    for (double decade = std::floor(x_.low); decade <= x_.high; ++decade) {
      out += Grid(decade, x_, [&](double log, bool whole) {
        std::string line = SvgLine(X(log), kTop, X(log), bottom, whole ? "#d4d4d4" : "#f0f0f0");
        if (whole) line += SvgText(X(log), bottom + 18, "middle", Power(log));
        return line;
      });
    }
    for (double decade = std::floor(y_.low); decade <= y_.high; ++decade) {
      out += Grid(decade, y_, [&](double log, bool whole) {
        std::string line = SvgLine(kLeft, Y(log), right, Y(log), whole ? "#d4d4d4" : "#f0f0f0");
        if (whole) line += SvgText(kLeft - 8, Y(log) + 4, "end", Power(log - 12));
        return line;
      });
    }
    out += SvgText((kLeft + right) / 2, height_ - 14, "middle", "FLOP a byte moved");
    out += fmt::format(
        "<text transform=\"translate(18 {:.1f}) rotate(-90)\" text-anchor=\"middle\">"
        "TFLOP/s</text>\n",
        (kTop + bottom) / 2);
    return out + "</g>\n";
  }

  // Lines at 1, 2, .. 9 times a power of ten within the range.
  template <typename F>
  static std::string Grid(double decade, const AxisRange& range, F&& line) {
    std::string out;
    for (int i = 1; i <= 9; ++i) {
      const double log = decade + std::log10(i);
      if (log >= range.low && log <= range.high) out += line(log, i == 1);
    }
    return out;
  }

  static std::string Power(double log) { return fmt::format("{:g}", std::pow(10, log)); }

  std::string Roof() const {
    const Ceilings& c = roofline_.ceilings;
    const double ridge = std::log10(c.flops / c.bytes), top = std::log10(c.flops);
    const double low = std::max(x_.low, y_.low - std::log10(c.bytes));  // where it enters
    std::string out = fmt::format(
        "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{:.1f},{:.1f} "
        "{:.1f},{:.1f} {:.1f},{:.1f}\"/>\n",
        kRoofColor, X(low), Y(low + std::log10(c.bytes)), X(ridge), Y(top), X(x_.high), Y(top));
    const double slope = std::atan2(Y(low + std::log10(c.bytes)) - Y(top), X(ridge) - X(low));
    const double middle = (low + ridge) / 2;
    out += fmt::format("<g font-size=\"12\" fill=\"{}\">\n", kRoofColor);
    out += fmt::format(
        "<text transform=\"translate({:.1f} {:.1f}) rotate({:.1f})\" text-anchor=\"middle\">"
        "copies, {:.2f} TB/s</text>\n",
        X(middle), Y(middle + std::log10(c.bytes)) - 9, -slope * 180 / M_PI, c.bytes * 1e-12);
    out += SvgText(X(ridge) - 4, Y(top) - 8, "end",
                   fmt::format("large products, {:.0f} TFLOP/s", c.flops * 1e-12));
    return out + "</g>\n";
  }

  // A disc for the first model, a diamond for the second, a square for any other.
  static std::string Mark(double x, double y, size_t model, const char* color) {
    if (model == 0) {
      return fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\" stroke=\"white\"/>\n", x, y,
          kMark, color);
    }
    return fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\" fill=\"{}\" "
        "stroke=\"white\"{}/>\n",
        x - kMark + 0.5, y - kMark + 0.5, 2 * kMark - 1, 2 * kMark - 1, color,
        model == 1 ? fmt::format(" transform=\"rotate(45 {:.1f} {:.1f})\"", x, y) : "");
  }

  std::string Marks() const {
    std::string out;
    for (const Entry& entry : entries_) {
      for (size_t model = 0; model < entry.ops.size(); ++model) {
        if (entry.ops[model] == nullptr) continue;
        const auto [x, y] = PlaceOf(*entry.ops[model]);
        out += Mark(x, y, model, kColors[static_cast<size_t>(entry.kind)]);
      }
    }
    return out;
  }

  // Whether one number serves both.
  bool Near(const OpTime& a, const OpTime& b) const {
    const auto [x1, y1] = PlaceOf(a);
    const auto [x2, y2] = PlaceOf(b);
    return std::hypot(x1 - x2, y1 - y2) < 2.5 * kMark;
  }

  // Each mark's number as near to it as there is room, with a line to it if that is not beside it.
  std::string Labels() const {
    std::vector<LabelBox> taken;
    for (const Entry& entry : entries_) {
      for (const OpTime* op : entry.ops) {
        if (op == nullptr) continue;
        const auto [x, y] = PlaceOf(*op);
        taken.push_back({x - kMark, y - kMark, 2 * kMark, 2 * kMark});
      }
    }
    std::string out = "<g font-size=\"10\" fill=\"#222\">\n";
    for (size_t i = 0; i < entries_.size(); ++i) {
      const OpTime* before = nullptr;
      for (const OpTime* op : entries_[i].ops) {
        if (op == nullptr || (before != nullptr && Near(*before, *op))) continue;
        out += Label(std::to_string(i + 1), PlaceOf(*op), taken);
        before = op;
      }
    }
    return out + "</g>\n";
  }

  std::string Label(const std::string& text, std::pair<double, double> at,
                    std::vector<LabelBox>& taken) const {
    const auto [x, y] = at;
    LabelBox best{x + kMark + 1, y - kLabelHeight / 2, kLabelWidth, kLabelHeight};
    double far = 0;
    for (double radius = kMark + 8; radius < 90 && far == 0; radius += 5) {
      for (int turn = 0; turn < 16; ++turn) {
        const double angle = turn * M_PI / 8;
        const LabelBox box{x + radius * std::cos(angle) - kLabelWidth / 2,
                           y + radius * std::sin(angle) - kLabelHeight / 2, kLabelWidth,
                           kLabelHeight};
        const bool inside = box.x > kLeft && box.x + box.width < kPlotWidth - kRight &&
                            box.y > kTop && box.y + box.height < height_ - kBottom;
        if (!inside || std::any_of(taken.begin(), taken.end(),
                                   [&](const LabelBox& other) { return other.Meets(box); })) {
          continue;
        }
        best = box, far = radius;
        break;
      }
    }
    taken.push_back(best);
    const double cx = best.x + best.width / 2, cy = best.y + best.height / 2;
    std::string out;
    if (far > kMark + 10) out += SvgLine(x, y, cx, cy, "#aaa");
    return out + SvgText(cx, cy + 3.6, "middle", text);
  }

  // "12  attention, forward   61 %   58 %": a share for each model.
  std::string List() const {
    std::string out = "<g font-size=\"11.5\">\n";
    double y = kTop + 2;
    out += "<g fill=\"#666\">" + SvgText(kWidth - 16, y - 16, "end", "share of the roof");
    for (size_t model = 0; model < models_.size() && models_.size() > 1; ++model) {
      out += Mark(Column(model) - 12, y - 3, model, "#666");
    }
    out += "</g>\n";
    for (size_t i = 0; i < entries_.size(); ++i) {
      y += kRow;
      const Entry& entry = entries_[i];
      out += fmt::format("<g fill=\"{}\">", kColors[static_cast<size_t>(entry.kind)]);
      out += SvgText(kPlotWidth + 24, y, "end", std::to_string(i + 1)) + "</g>";
      out += SvgText(kPlotWidth + 32, y, "start", entry.name);
      for (size_t model = 0; model < entry.ops.size(); ++model) {
        if (entry.ops[model] == nullptr) continue;
        const double share = entry.ops[model]->Share(roofline_.ceilings);
        out += SvgText(Column(model), y, "end", fmt::format("{:.0f} %", 100 * share));
      }
    }
    return out + "</g>\n";
  }

  double Column(size_t model) const {
    return kWidth - 16 - 48 * static_cast<double>(models_.size() - 1 - model);
  }

  const Roofline& roofline_;
  std::vector<std::string> models_;
  std::vector<Entry> entries_;
  double height_ = kLeastHeight;
  AxisRange x_, y_;  // decimal logarithms of FLOP a byte, and of FLOP/s
};

}  // namespace

std::string RooflineSvg(const Roofline& roofline) { return Picture(roofline).Draw(); }

}  // namespace mnemo
