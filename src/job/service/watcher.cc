#include "src/job/service/watcher.h"

#include <algorithm>
#include <utility>

namespace mnemo {

Watcher::Watcher(int every, std::function<void()> wake)
    : every_(std::max(1, every)), wake_(std::move(wake)) {}

std::optional<v1::JobUpdate> Watcher::Next() {
  std::lock_guard lock(mutex_);
  if (updates_.empty()) return std::nullopt;
  v1::JobUpdate update;
  *update.mutable_status() = *updates_.front();
  update.set_missed(std::exchange(missed_, 0));
  updates_.pop_front();
  return update;
}

bool Watcher::Drained() const {
  std::lock_guard lock(mutex_);
  return closed_ && updates_.empty();
}

bool Watcher::Offer(std::shared_ptr<const v1::JobStatus> status, bool logged_step) {
  std::lock_guard lock(mutex_);
  if (logged_step && logged_++ % every_ != 0) return false;
  if (updates_.size() == kCapacity) {
    updates_.pop_front();
    ++missed_;
  }
  updates_.push_back(std::move(status));
  return true;
}

void Watcher::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
}

}  // namespace mnemo
