// Reports on their way from a training step to whoever sends them. The step never waits: not for
// the sender, not for room.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>

#include "mnemo/v1/job.pb.h"

namespace mnemo {

// One thread pushes, one pops.
class ReportQueue {
 public:
  explicit ReportQueue(size_t capacity) : capacity_(capacity) {}

  // Never waits. If the sender has the queue at this very moment, the report goes with the next
  // push. Beyond the capacity the oldest metrics go, then the oldest of all.
  void Push(v1::WorkerReport report);

  // The oldest; waits at most `seconds` for one, less after Close().
  std::optional<v1::WorkerReport> Pop(double seconds);
  // Back to the front: it could not be sent.
  void Return(v1::WorkerReport report);
  // Ends waiting, now and from now on.
  void Close();

  // Reports that went unsent for want of room.
  int64_t dropped() const { return dropped_; }
  // Pushes in which the kernel made the thread wait for a millisecond or more, measured from
  // outside of what Push does: stays 0.
  int64_t waits() const { return waits_; }

 private:
  using Reports = std::deque<v1::WorkerReport>;
  void HandOver(v1::WorkerReport report);
  void Trim(Reports& reports);

  const size_t capacity_;
  Reports staged_;  // of the pushing thread
  std::mutex mutex_;
  std::condition_variable changed_;
  Reports queue_;
  bool closed_ = false;
  std::atomic<int64_t> dropped_ = 0, waits_ = 0;
};

}  // namespace mnemo
