// The live line of a long job.
#pragma once

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

namespace mnemo {

struct Progress {
  int64_t step = 0;   // done so far, in all
  int64_t steps = 0;  // wanted
  double loss = 0;    // nats a token
  double tokens_per_second = 0;
  // Achieved over attainable arithmetic of this machine, 0 to 1, where it is known.
  std::optional<double> speed_of_light;
  std::optional<double> seconds_left;
};

// "step  120/300  loss 2.345  12.3k tok/s  34% of speed of light  1m20s left".
std::string FormatProgress(const Progress& progress);

// "59s", "1m20s", "3h05m", "2d04h".
std::string FormatDuration(double seconds);

// On a terminal rewrites one line, at most ten times a second; elsewhere writes a line every few
// seconds. What is last is always shown. Not thread-safe.
class ProgressLine {
 public:
  // `first_step`: steps done by an earlier run, left out of the estimate of the time left.
  // `out` outlives this object. `now` is in seconds, on any monotonic clock.
  ProgressLine(std::FILE* out, bool terminal, int64_t first_step, double now);
  // For stderr and the present time. Behind mpirun stderr is a pipe: MNEMO_TERMINAL=1 in the
  // environment says that a terminal is at its end.
  static ProgressLine ForStderr(int64_t first_step);
  static double Now();

  // Fills in seconds_left unless it is given.
  void Update(Progress progress, double now);
  // A line of other work: `text` without a newline.
  void Show(std::string_view text, double now, bool last = false);
  // Ends a line that is still being rewritten, so that other output starts on a new one.
  void Finish();

 private:
  bool Due(double now) const;

  std::FILE* out_;
  bool terminal_;
  int64_t first_step_;
  double start_;
  std::optional<double> shown_;  // when the last line was written
  bool open_ = false;            // the cursor is on a line that will be rewritten
};

}  // namespace mnemo
