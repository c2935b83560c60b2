#include "src/job/progress_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

namespace mnemo {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

// What a ProgressLine writes.
class Written {
 public:
  Written() : file_(::open_memstream(&text_, &size_)) {}
  ~Written() {
    std::fclose(file_);
    std::free(text_);
  }
  std::FILE* file() { return file_; }
  std::string Text() {
    std::fflush(file_);
    return std::string(text_, size_);
  }

 private:
  char* text_ = nullptr;
  size_t size_ = 0;
  std::FILE* file_;
};

Progress At(int64_t step) { return {step, 100, 2.5, 1234, {}, {}}; }

TEST(FormatProgressTest, ShowsEverythingKnown) {
  EXPECT_EQ(FormatProgress({7, 300, 2.3456, 12345, 0.336, 80}),
            "step   7/300  loss 2.346  12.3k tok/s  34% of speed of light  1m20s left");
  EXPECT_EQ(FormatProgress({300, 300, 2, 999.6, {}, {}}), "step 300/300  loss 2.000  1.0k tok/s");
  EXPECT_EQ(FormatProgress({1, 2, NAN, 2.5e6, {}, {}}), "step 1/2  loss nan  2.50M tok/s");
}

TEST(FormatDurationTest, UsesTwoUnits) {
  EXPECT_EQ(FormatDuration(0.2), "0s");
  EXPECT_EQ(FormatDuration(59.4), "59s");
  EXPECT_EQ(FormatDuration(59.6), "1m00s");
  EXPECT_EQ(FormatDuration(3 * 3600 + 5 * 60 + 59), "3h05m");
  EXPECT_EQ(FormatDuration(2 * 86400 + 4 * 3600), "2d04h");
  EXPECT_EQ(FormatDuration(INFINITY), "?");
}

TEST(ProgressLineTest, OnATerminalRewritesOneLine) {
  Written written;
  ProgressLine line(written.file(), true, 0, 100);
  line.Update(At(1), 100.5);
  line.Update(At(2), 100.55);  // too soon
  line.Update(At(3), 101);
  EXPECT_EQ(written.Text(),
            "\rstep   1/100  loss 2.500  1.2k tok/s  50s left\x1b[K"
            "\rstep   3/100  loss 2.500  1.2k tok/s  32s left\x1b[K");
  line.Update(At(100), 101.01);  // the last one is always shown
  EXPECT_THAT(written.Text(), EndsWith("\rstep 100/100  loss 2.500  1.2k tok/s  0s left\x1b[K\n"));
  line.Finish();
  EXPECT_THAT(written.Text(), Not(EndsWith("\n\n")));
}

TEST(ProgressLineTest, ElsewhereWritesALineEveryFewSeconds) {
  Written written;
  ProgressLine line(written.file(), false, 0, 0);
  for (int step = 1; step <= 100; ++step) line.Update(At(step), 0.125 * step);
  line.Finish();
  const std::string text = written.Text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);  // at 0.125, 5.125, 10.125 and the end
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, EndsWith("step 100/100  loss 2.500  1.2k tok/s  0s left\n"));
}

TEST(ProgressLineTest, AResumedRunEstimatesFromItsOwnSteps) {
  Written written;
  ProgressLine line(written.file(), false, 90, 0);
  line.Update(At(95), 5);
  EXPECT_THAT(written.Text(), HasSubstr("  5s left\n"));
}

TEST(ProgressLineTest, ShowsTextAtTheSamePace) {
  Written terminal, file;
  ProgressLine on_terminal(terminal.file(), true, 0, 0), in_file(file.file(), false, 0, 0);
  for (int i = 1; i <= 3; ++i) {
    on_terminal.Show("read " + std::to_string(i), 0.06 * i);
    in_file.Show("read " + std::to_string(i), 3.0 * i);
  }
  on_terminal.Finish();
  EXPECT_EQ(terminal.Text(), "\rread 1\x1b[K\rread 3\x1b[K\n");
  EXPECT_EQ(file.Text(), "read 1\nread 3\n");
  in_file.Show("all read", 9.1, /*last=*/true);
  EXPECT_THAT(file.Text(), EndsWith("read 3\nall read\n"));
}

TEST(ProgressLineTest, FinishEndsAnInterruptedLine) {
  Written written;
  ProgressLine line(written.file(), true, 0, 0);
  line.Update(At(1), 1);
  line.Finish();
  EXPECT_THAT(written.Text(), EndsWith("\x1b[K\n"));
}

}  // namespace
}  // namespace mnemo
