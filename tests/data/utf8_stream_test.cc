#include "src/data/utf8_stream.h"

#include <gtest/gtest.h>

#include "src/data/utf8.h"

namespace mnemo {
namespace {

std::string Whole(std::string_view bytes, size_t piece) {
  Utf8Stream stream;
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += piece) {
    const std::string part = stream.Add(bytes.substr(i, piece));
    EXPECT_EQ(FirstInvalidUtf8(part), part.size()) << "piece at " << i;
    text += part;
  }
  return text + stream.Finish();
}

TEST(Utf8StreamTest, ValidTextComesBackWholeInAnyPieces) {
  const std::string text = "a\u00e9\u20ac\U0001F600z";
  for (size_t piece = 1; piece <= text.size(); ++piece) EXPECT_EQ(Whole(text, piece), text);
}

TEST(Utf8StreamTest, CharactersAreHeldUntilTheyAreWhole) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Add("x\xE2\x82"), "x");
  EXPECT_EQ(stream.Add("\xACy"), "\u20acy");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(Utf8StreamTest, BytesOfNoCharacterAreReplacedOneByOne) {
  const std::string bad = "\uFFFD";
  for (size_t piece = 1; piece < 4; ++piece) {
    EXPECT_EQ(Whole("a\xFF\x80z", piece), "a" + bad + bad + "z");
    EXPECT_EQ(Whole("\xE2\x28\xA1", piece), bad + "(" + bad);  // broken off
    EXPECT_EQ(Whole("\xED\xA0\x80", piece), bad + bad + bad);  // a surrogate
    EXPECT_EQ(Whole("\xF5\x80", piece), bad + bad);            // beyond Unicode
    EXPECT_EQ(Whole("\xC0\xAF", piece), bad + bad);            // overlong
    EXPECT_EQ(Whole("ok\xF0\x9F\x98", piece), "ok" + bad);     // unfinished at the end
  }
}

}  // namespace
}  // namespace mnemo
