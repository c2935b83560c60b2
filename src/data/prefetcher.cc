#include "src/data/prefetcher.h"

#include <algorithm>
#include <exception>

#include "src/core/status.h"

namespace mnemo {

Prefetcher::Prefetcher(Source source, int depth)
    : source_(std::move(source)),
      depth_(static_cast<size_t>(std::max(depth, 1))),
      thread_([this] { Loop(); }) {}

Prefetcher::~Prefetcher() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Prefetcher::Loop() {
  for (int64_t index = 0;; ++index) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return stop_ || ready_.size() < depth_; });
      if (stop_) return;
    }
    std::optional<absl::StatusOr<SliceBatch>> batch;
    try {
      batch = source_(index);
    } catch (const std::exception& error) {  // out of memory, say: it must not end the program here
      batch = Internal("reading ahead failed: {}", error.what());
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (batch.has_value() && batch->ok()) {
      ready_.push_back(*std::move(*batch));
    } else {
      end_ =
          batch.has_value() ? batch->status() : absl::OutOfRangeError("there are no more batches");
    }
    changed_.notify_all();
    if (!end_.ok()) return;
  }
}

absl::StatusOr<SliceBatch> Prefetcher::Next() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty() || !end_.ok(); });
  if (ready_.empty()) return end_;
  SliceBatch batch = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return batch;
}

}  // namespace mnemo
