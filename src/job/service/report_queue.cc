#include "src/job/service/report_queue.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

namespace mnemo {
namespace {

// How often this thread gave up the processor because it had to wait for something.
int64_t WaitsOfThisThread() {
  rusage usage = {};
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

}  // namespace

void ReportQueue::Push(v1::WorkerReport report) {
  const auto begin = std::chrono::steady_clock::now();
  const int64_t before = WaitsOfThisThread();
  HandOver(std::move(report));
  if (WaitsOfThisThread() > before &&
      std::chrono::steady_clock::now() - begin >= std::chrono::milliseconds(1)) {
    ++waits_;
  }
}

void ReportQueue::HandOver(v1::WorkerReport report) {
  staged_.push_back(std::move(report));
  Trim(staged_);
  {
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return;
    std::ranges::move(staged_, std::back_inserter(queue_));
    Trim(queue_);
  }
  staged_.clear();
  changed_.notify_one();
}

void ReportQueue::Trim(Reports& reports) {
  while (reports.size() > capacity_) {
    const auto metrics = std::ranges::find_if(reports, &v1::WorkerReport::has_metrics);
    reports.erase(metrics == reports.end() ? reports.begin() : metrics);
    ++dropped_;
  }
}

std::optional<v1::WorkerReport> ReportQueue::Pop(double seconds) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                    [&] { return closed_ || !queue_.empty(); });
  if (queue_.empty()) return std::nullopt;
  v1::WorkerReport report = std::move(queue_.front());
  queue_.pop_front();
  return report;
}

void ReportQueue::Return(v1::WorkerReport report) {
  std::lock_guard lock(mutex_);
  queue_.push_front(std::move(report));
  Trim(queue_);
}

void ReportQueue::Close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

}  // namespace mnemo
