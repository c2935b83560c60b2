// What one client of Job.Watch has still to be sent. The job offers updates and never waits; a
// client that does not take them loses the oldest.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "mnemo/v1/job.pb.h"

namespace mnemo {

// Thread-safe. Statuses are shared among watchers, so a slow one costs a few pointers.
class Watcher {
 public:
  static constexpr size_t kCapacity = 16;  // updates

  // Takes every `every`-th logged step (at least 1). `wake` is called, with no lock held and from
  // any thread, after there is something to take; it must not wait.
  Watcher(int every, std::function<void()> wake);

  // The oldest update not taken, with the number dropped before it.
  std::optional<v1::JobUpdate> Next();
  // Whether the job has ended and everything was taken: nothing will come any more.
  bool Drained() const;

  // For the job. False if this watcher skips it. `logged_step`: only a step was logged, which
  // `every` may leave out.
  bool Offer(std::shared_ptr<const v1::JobStatus> status, bool logged_step);
  void Close();
  void Wake() const { wake_(); }

 private:
  const int every_;
  const std::function<void()> wake_;
  mutable std::mutex mutex_;
  std::deque<std::shared_ptr<const v1::JobStatus>> updates_;
  int64_t missed_ = 0, logged_ = 0;
  bool closed_ = false;
};

}  // namespace mnemo
