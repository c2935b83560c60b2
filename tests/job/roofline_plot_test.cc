#include "src/job/roofline_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "tests/job/xml_check.h"

namespace mnemo {
namespace {

using testing::HasSubstr;
using testing::Not;

OpTime Op(const std::string& name, OpKind kind, double flops, double bytes, double seconds,
          const std::string& model = "") {
  OpTime op;
  op.name = name, op.kind = kind, op.model = model;
  op.flops = flops, op.bytes = bytes, op.seconds = seconds;
  return op;
}

int Count(const std::string& text, const std::string& pattern) {
  const std::regex words(pattern);
  return static_cast<int>(
      std::distance(std::sregex_iterator(text.begin(), text.end(), words), std::sregex_iterator()));
}

TEST(RooflineSvgTest, NamesOpsWithTheirShareOfTheRoof) {
  Roofline roofline{"Ops <of> a & step", {100e12, 1e12}, {}};
  roofline.ops = {Op("product", OpKind::kProduct, 100e12, 0.1e12, 2),
                  Op("norm", OpKind::kFusedForward, 1e12, 4e12, 5),
                  Op("fill", OpKind::kPrimitive, 0, 1e12, 2)};
  const std::string svg = RooflineSvg(roofline);
  EXPECT_EQ(XmlProblem(svg), "");
  EXPECT_THAT(svg, HasSubstr("Ops &lt;of&gt; a &amp; step"));
  EXPECT_THAT(svg, HasSubstr(">product<"));
  EXPECT_THAT(svg, HasSubstr(">50 %<"));
  EXPECT_THAT(svg, HasSubstr(">80 %<"));
  EXPECT_THAT(svg, Not(HasSubstr(">fill<")));  // no FLOP, no place
  EXPECT_THAT(svg, HasSubstr("large products, 100 TFLOP/s"));
  EXPECT_THAT(svg, HasSubstr("copies, 1.00 TB/s"));
  EXPECT_EQ(Count(svg, "<circle"), 2);
}

TEST(RooflineSvgTest, AnOpOnTheRoofIsDrawnOnIt) {
  Roofline roofline{"", {100e12, 1e12}, {}};
  roofline.ops = {Op("a", OpKind::kProduct, 100e12, 0.1e12, 1)};
  const std::string svg = RooflineSvg(roofline);
  std::smatch mark, roof;
  ASSERT_TRUE(std::regex_search(svg, mark, std::regex(R"re(<circle cx="[^"]*" cy="([^"]*)")re")));
  ASSERT_TRUE(std::regex_search(svg, roof,
                                std::regex(R"re(points="[^ ]* [^,]*,([^ ]*) [^,]*,([^"]*)")re")));
  EXPECT_EQ(mark[1], roof[1]);
  EXPECT_EQ(roof[1], roof[2]);  // it is flat there
}

TEST(RooflineSvgTest, TwoModelsShareANumberAndHaveAMarkEach) {
  Roofline roofline{"", {100e12, 1e12}, {}};
  for (const char* model : {"small", "large"}) {
    const double size = model[0] == 's' ? 1 : 2;
    roofline.ops.push_back(Op("first", OpKind::kProduct, 1e12, 1e9, 0.02 * size, model));
    roofline.ops.push_back(Op("second", OpKind::kProduct, 1e12, 1e11 * size, 1, model));
  }
  const std::string svg = RooflineSvg(roofline);
  EXPECT_EQ(XmlProblem(svg), "");
  EXPECT_EQ(Count(svg, ">first<"), 1);
  EXPECT_EQ(Count(svg, ">small<"), 1);
  // Two marks of each model's ops, one in the legend, one above its column of shares.
  EXPECT_EQ(Count(svg, "<circle"), 4);
  EXPECT_EQ(Count(svg, "rotate\\(45"), 4);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(RooflineSvgTest, NothingMeasuredIsAPictureStill) {
  const std::string svg = RooflineSvg({"", {1e12, 1e11}, {}});
  EXPECT_EQ(XmlProblem(svg), "");
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace mnemo
