#include "src/job/progress_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>

namespace mnemo {
namespace {

constexpr double kTerminalInterval = 0.1;  // seconds
constexpr double kFileInterval = 5;

std::string FormatRate(double tokens_per_second) {
  if (tokens_per_second >= 999.5e3) return fmt::format("{:.2f}M tok/s", tokens_per_second / 1e6);
  if (tokens_per_second >= 999.5) return fmt::format("{:.1f}k tok/s", tokens_per_second / 1e3);
  return fmt::format("{:.0f} tok/s", tokens_per_second);
}

}  // namespace

std::string FormatDuration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e10) return "?";
  const int64_t s = std::llround(seconds);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

std::string FormatProgress(const Progress& progress) {
  const std::string total = fmt::format("{}", progress.steps);
  std::string line = fmt::format("step {:>{}}/{}  loss {:.3f}  {}", progress.step, total.size(),
                                 total, progress.loss, FormatRate(progress.tokens_per_second));
  if (progress.speed_of_light) {
    line += fmt::format("  {:.0f}% of speed of light", 100 * *progress.speed_of_light);
  }
  if (progress.seconds_left) line += "  " + FormatDuration(*progress.seconds_left) + " left";
  return line;
}

ProgressLine::ProgressLine(std::FILE* out, bool terminal, int64_t first_step, double now)
    : out_(out), terminal_(terminal), first_step_(first_step), start_(now) {}

ProgressLine ProgressLine::ForStderr(int64_t first_step) {
  const char* said = std::getenv("MNEMO_TERMINAL");
  const bool terminal = ::isatty(STDERR_FILENO) == 1 || (said != nullptr && said[0] == '1');
  return ProgressLine(stderr, terminal, first_step, Now());
}

double ProgressLine::Now() {
  const auto since_boot = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since_boot).count();
}

bool ProgressLine::Due(double now) const {
  return !shown_ || now - *shown_ >= (terminal_ ? kTerminalInterval : kFileInterval);
}

void ProgressLine::Update(Progress progress, double now) {
  const bool last = progress.step >= progress.steps;
  if (!last && !Due(now)) return;
  const int64_t done = progress.step - first_step_;
  if (!progress.seconds_left && done > 0) {
    const double each = (now - start_) / static_cast<double>(done);
    progress.seconds_left =
        each * static_cast<double>(std::max<int64_t>(0, progress.steps - progress.step));
  }
  Show(FormatProgress(progress), now, last);
}

void ProgressLine::Show(std::string_view text, double now, bool last) {
  if (!last && !Due(now)) return;
  shown_ = now;
  // Return to the start of the line, write, erase what a longer line left behind.
  if (terminal_) {
    fmt::print(out_, "\r{}\x1b[K", text);
  } else {
    fmt::print(out_, "{}\n", text);
  }
  open_ = terminal_;
  if (last) Finish();
  std::fflush(out_);
}

void ProgressLine::Finish() {
  if (open_) std::fputc('\n', out_);
  open_ = false;
}

}  // namespace mnemo
