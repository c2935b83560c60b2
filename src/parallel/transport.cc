#include "src/parallel/transport.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "src/core/random.h"
#include "src/core/status.h"

namespace mnemo {

std::string ToString(const TransferInfo& info) {
  const bool send = info.kind == TransferInfo::Kind::kSend;
  const std::string bytes = info.bytes < 0 ? "any length" : fmt::format("{} bytes", info.bytes);
  return fmt::format("rank {}: {} rank {} on '{}' (channel {}), {}, message {}", info.rank,
                     send ? "send to" : "receive from", info.peer, info.channel.name,
                     info.channel.id, bytes, info.sequence);
}

std::chrono::microseconds DelayOf(const DelayOptions& options, int rank, int64_t index) {
  if (options.longest.count() == 0) return {};
  const RandomStream stream(options.seed, static_cast<uint64_t>(rank), "transport/delay");
  const double part = stream.Uniform(static_cast<uint64_t>(index));
  return std::chrono::microseconds(
      static_cast<int64_t>(part * static_cast<double>(options.longest.count())));
}

namespace internal {

bool TransferState::Done() const {
  std::lock_guard lock(mutex_);
  return done_ && (!status_.ok() || Clock::now() >= visible_);
}

bool TransferState::finished() const {
  std::lock_guard lock(mutex_);
  return done_;
}

int64_t TransferState::moved() const {
  std::lock_guard lock(mutex_);
  return moved_;
}

absl::Status TransferState::Wait(Timeout timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  // Ends after the lock, since the transport has locks of its own.
  const struct Waiting {
    explicit Waiting(TransferState& state) : state(state), waits(!state.finished()) {
      if (waits) state.BeginWait();
    }
    ~Waiting() {
      if (waits) state.EndWait();
    }
    TransferState& state;
    const bool waits;
  } waiting(*this);
  std::unique_lock lock(mutex_);
  bool in_time = changed_.wait_until(lock, deadline, [&] { return done_; });
  if (in_time && status_.ok() && visible_ > Clock::now()) {
    const Clock::time_point visible = visible_;
    lock.unlock();
    std::this_thread::sleep_until(std::min(visible, deadline));
    lock.lock();
    in_time = visible <= deadline;
  }
  if (in_time) return status_;
  return absl::DeadlineExceededError(fmt::format("{}: not done within {:.1f} s", ToString(info_),
                                                 std::chrono::duration<double>(timeout).count()));
}

void TransferState::Finish(int64_t moved, Clock::time_point visible) {
  {
    std::lock_guard lock(mutex_);
    MNEMO_CHECK(!done_);
    done_ = true;
    moved_ = moved;
    visible_ = visible;
  }
  changed_.notify_all();
}

void TransferState::Fail(const absl::Status& why) {
  {
    std::lock_guard lock(mutex_);
    MNEMO_CHECK(!done_ && !why.ok());
    done_ = true;
    status_ = absl::Status(why.code(),
                           fmt::format("{}: {}", ToString(info_), std::string(why.message())));
  }
  changed_.notify_all();
}

}  // namespace internal

void Transport::Abort(const absl::Status& why) {
  MNEMO_CHECK(!why.ok());
  DoAbort(absl::Status(why.code(),
                       fmt::format("rank {} failed: {}", rank(), std::string(why.message()))));
}

Transfer& Transfer::operator=(Transfer&& other) noexcept {
  if (this != &other) {
    Drop();
    state_ = std::move(other.state_);
  }
  return *this;
}

void Transfer::Drop() {
  if (state_ != nullptr && !state_->finished()) state_->GiveUp();
  state_.reset();
}

}  // namespace mnemo
