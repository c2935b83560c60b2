#include "src/data/utf8.h"

#include <gtest/gtest.h>

namespace mnemo {
namespace {

TEST(Utf8, FindsTheFirstInvalidByte) {
  const auto at = [](std::string_view text) { return FirstInvalidUtf8(text); };
  EXPECT_EQ(at(""), 0u);
  EXPECT_EQ(at("plain ascii text, long enough for words"), 39u);
  EXPECT_EQ(at("\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF"), 17u);
  EXPECT_EQ(at("\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"), 8u);
  EXPECT_EQ(at("abc\x80"), 3u);           // a tail alone
  EXPECT_EQ(at("12345678\xC1\xBF"), 8u);  // overlong
  EXPECT_EQ(at("\xE0\x9F\xBF"), 0u);      // overlong
  EXPECT_EQ(at("\xED\xA0\x80"), 0u);      // surrogate
  EXPECT_EQ(at("\xF0\x8F\xBF\xBF"), 0u);  // overlong
  EXPECT_EQ(at("\xF4\x90\x80\x80"), 0u);  // above U+10FFFF
  EXPECT_EQ(at("ab\xE2\x82"), 2u);        // cut short
  EXPECT_EQ(at("ab\xE2\x82g"), 2u);
}

TEST(Utf8, Repairs) {
  EXPECT_EQ(RepairUtf8("a\xFF\xFE"
                       "b\xC3\xA4\x80",
                       true),
            "a\xEF\xBF\xBD"
            "b\xC3\xA4\xEF\xBF\xBD");
  EXPECT_EQ(RepairUtf8("a\xFF\xFE"
                       "b\xC3\xA4\x80",
                       false),
            "ab\xC3\xA4");
  EXPECT_EQ(RepairUtf8("fine", true), "fine");
}

TEST(Utf8, CutsAfterNewlinesAndBetweenCharacters) {
  EXPECT_EQ(CutPoint("short", 8), 5u);
  EXPECT_EQ(CutPoint("12345678", 8), 8u);
  EXPECT_EQ(CutPoint("12345\n789", 8), 6u);
  EXPECT_EQ(CutPoint("12\n456789", 8), 8u);  // the newline is too early
  EXPECT_EQ(CutPoint("1234567\xC3\xA4", 8), 7u);
  EXPECT_EQ(CutPoint("12345\xF0\x90\x80\x80", 8), 5u);
  EXPECT_EQ(CutPoint("\x80\x80\x80\x80\x80\x80\x80\x80\x80", 8), 8u);  // not UTF-8: anywhere
}

}  // namespace
}  // namespace mnemo
