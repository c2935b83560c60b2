#include "src/job/loss_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>

#include "absl/strings/str_split.h"
#include "src/job/plot_scale.h"
#include "tests/job/xml_check.h"

namespace mnemo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A falling, noisy curve and four held-out points.
LossCurves SampleCurves() {
  LossCurves curves;
  curves.title = "tiny_mac & friends <1>";
  for (int step = 1; step <= 300; ++step) {
    const double noise = 0.15 * std::sin(12.9898 * step * step);
    curves.train.push_back({step, 2.0 + 3.5 * std::exp(-step / 60.0) + noise});
  }
  for (int step : {75, 150, 225, 300}) {
    curves.held_out.push_back({step, 2.1 + 3.5 * std::exp(-step / 60.0)});
  }
  return curves;
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(TicksTest, AreRoundNumbersWithinTheRange) {
  EXPECT_THAT(Ticks({0, 1}, 5),
              ElementsAre(0, testing::DoubleEq(0.2), testing::DoubleEq(0.4),
                          testing::DoubleNear(0.6, 1e-12), testing::DoubleEq(0.8), 1));
  EXPECT_THAT(Ticks({1, 300}, 6), ElementsAre(50, 100, 150, 200, 250, 300));
  EXPECT_THAT(Ticks({-3, 3}, 3), ElementsAre(-2, 0, 2));
  for (double scale : {1e-6, 1.0, 37.0, 1e9}) {
    for (int count = 2; count < 12; ++count) {
      const size_t ticks = Ticks({2 * scale, 5.1 * scale}, count).size();
      EXPECT_GE(ticks, 1u);
      EXPECT_LE(ticks, count + 1u);
    }
  }
}

TEST(TickLabelTest, ShowsAsManyDigitsAsTheDistanceNeeds) {
  EXPECT_EQ(TickLabel(0.25, 0.05), "0.25");
  EXPECT_EQ(TickLabel(3, 1), "3");
  EXPECT_EQ(TickLabel(3, 0.5), "3.0");
  EXPECT_EQ(TickLabel(20000, 10000), "20k");
  EXPECT_EQ(TickLabel(1.5e6, 5e5), "1.5M");
  EXPECT_EQ(TickLabel(-1e-18, 0.1), "0.0");
  EXPECT_EQ(TickLabel(0, 1e4), "0");
}

TEST(SmoothedTest, AveragesNeighboursAndKeepsTheEnds) {
  const std::vector<LossPoint> smooth = Smoothed({{1, 0}, {2, 3}, {3, 0}, {4, 3}, {5, 6}}, 3);
  EXPECT_EQ(smooth[0].loss, 0);
  EXPECT_EQ(smooth[1].loss, 1);
  EXPECT_EQ(smooth[3].loss, 3);
  EXPECT_EQ(smooth[4].loss, 6);
  EXPECT_EQ(Thinned(std::vector<LossPoint>(1001, {1, 2}), 10).size(), 10u);
  EXPECT_EQ(Thinned(std::vector<LossPoint>(7, {1, 2}), 10).size(), 7u);
}

TEST(LossCurveSvgTest, IsWellFormedAndEscaped) {
  const std::string svg = LossCurveSvg(SampleCurves());
  EXPECT_EQ(XmlProblem(svg), "");
  EXPECT_THAT(svg, HasSubstr("tiny_mac &amp; friends &lt;1&gt;"));
  EXPECT_EQ(Count(svg, "<circle"), 4);
  EXPECT_EQ(Count(svg, "<polyline"), 3);  // measured, averaged, held-out
  EXPECT_THAT(svg, HasSubstr(">held-out</text>"));
  EXPECT_THAT(svg, HasSubstr(">loss (nats a token)</text>"));
  LossCurves odd{"\x01\"quoted\" & <b>", {}, {}};
  EXPECT_EQ(XmlProblem(LossCurveSvg(odd)), "");
  EXPECT_EQ(XmlProblem("<a><b></a></b>"), "</a> closes <b>");  // the checker itself can fail
  EXPECT_NE(XmlProblem("<a>\x01</a>"), "");
  EXPECT_NE(XmlProblem("<a>R&D</a>"), "");
}

TEST(LossCurveSvgTest, StaysOnThePaperWhateverThePoints) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  for (const LossCurves& curves : {LossCurves{"none", {}, {}}, LossCurves{"one", {{7, 2.5}}, {}},
                                   LossCurves{"level", {{1, 2}, {2, 2}}, {}},
                                   LossCurves{"bad", {{1, nan}, {2, inf}}, {{3, 1}}},
                                   LossCurves{"huge", {{1, 1e30}, {1LL << 60, -1e30}}, {}}}) {
    const std::string svg = LossCurveSvg(curves);
    EXPECT_EQ(XmlProblem(svg), "") << curves.title;
    EXPECT_THAT(svg, Not(HasSubstr("nan"))) << curves.title;
    EXPECT_THAT(svg, Not(HasSubstr("inf"))) << curves.title;
  }
}

TEST(LossCurveTextTest, DrawsAFallingCurveWithinItsColumns) {
  const std::string text = LossCurveText(SampleCurves(), false, {60, 10});
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  ASSERT_EQ(lines.size(), 14u);  // title, 10 rows, axis, steps, and after the last newline
  for (size_t i = 1; i < lines.size(); ++i) EXPECT_LE(lines[i].size(), 60u) << lines[i];
  const size_t first_high = lines[1].find('.', 9), first_low = lines[10].find_first_of(".o", 9);
  EXPECT_LT(first_high, 14u) << text;
  EXPECT_GT(first_low, 30u) << text;
  EXPECT_EQ(Count(text, "o") - Count(lines[0], "o"), 4) << text;
  EXPECT_THAT(lines[12], testing::EndsWith("step 300"));
}

TEST(LossCurveTextTest, UsesBrailleWhereAllowed) {
  const std::string text = LossCurveText(SampleCurves(), true);
  EXPECT_GT(Count(text, "\xe2\xa0") + Count(text, "\xe2\xa1") + Count(text, "\xe2\xa2"), 30);
  EXPECT_THAT(text, HasSubstr("\u2502"));
  const std::string plain = LossCurveText(SampleCurves(), false);
  EXPECT_TRUE(std::all_of(plain.begin(), plain.end(), [](char c) { return c > 0; }));
}

TEST(LossCurveTextTest, TakesFewPoints) {
  EXPECT_EQ(LossCurveText({"run", {{1, std::nan("")}}, {}}, true), "run: no points\n");
  EXPECT_THAT(LossCurveText({"run", {{5, 2}}, {}}, false, {1, 1}), HasSubstr("."));
}

TEST(TerminalTakesUnicodeTest, FollowsTheFirstLocaleVariable) {
  ::setenv("LC_ALL", "C", 1);
  ::setenv("LANG", "en_US.UTF-8", 1);
  EXPECT_FALSE(TerminalTakesUnicode());
  ::unsetenv("LC_ALL");
  ::unsetenv("LC_CTYPE");
  EXPECT_TRUE(TerminalTakesUnicode());
}

}  // namespace
}  // namespace mnemo
