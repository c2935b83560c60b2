#include "src/parallel/thread_transport.h"

#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <thread>
#include <tuple>
#include <utility>

#include "src/core/status.h"
#include "src/core/thread_pool.h"

namespace mnemo {

class ThreadWorld::State : public internal::TransferState {
 public:
  State(TransferInfo info, Shared& shared, std::chrono::microseconds delay)
      : TransferState(std::move(info)), shared_(shared), delay_(delay) {}
  void GiveUp() override;

  Clock::time_point visible() const {
    return delay_.count() == 0 ? Clock::time_point{} : Clock::now() + delay_;
  }

  // What is read: the sender's buffer, or the copy taken of it.
  std::span<const std::byte> source;
  std::vector<std::byte> copy;
  bool eager = false;  // copied, and done already
  // What is written: one of the two.
  std::span<std::byte> target;
  std::vector<std::byte>* message = nullptr;

 private:
  Shared& shared_;
  std::chrono::microseconds delay_;
};

// Who waits for whom. A send and a receive meet in the mailbox of their (sender, receiver,
// channel); whoever comes second takes both out and copies, with the mailboxes unlocked.
class ThreadWorld::Shared {
 public:
  Shared(int size, const ThreadTransportOptions& options) : size_(size), options_(options) {}

  int size() const { return size_; }
  absl::Status status() const {
    std::lock_guard lock(mutex_);
    return status_;
  }

  std::shared_ptr<State> Make(TransferInfo::Kind kind, int rank, int peer, const Channel& channel,
                              int64_t bytes) {
    MNEMO_CHECK(peer >= 0 && peer < size_, "rank {} of {}", peer, size_);
    TransferInfo info{kind, rank, peer, channel, bytes, 0};
    int64_t index = 0;
    {
      std::lock_guard lock(mutex_);
      Mailbox& box = mailboxes_[KeyOf(info)];
      info.sequence = kind == TransferInfo::Kind::kSend ? box.sent++ : box.received++;
      index = transfers_[rank]++;
    }
    return std::make_shared<State>(std::move(info), *this, DelayOf(options_.delays, rank, index));
  }

  void Post(const std::shared_ptr<State>& state) {
    const bool send = state->info().kind == TransferInfo::Kind::kSend;
    std::shared_ptr<State> other;
    {
      std::lock_guard lock(mutex_);
      if (!status_.ok()) {
        state->Fail(status_);
        return;
      }
      Mailbox& box = mailboxes_[KeyOf(state->info())];
      std::deque<std::shared_ptr<State>>& waiting = send ? box.receives : box.sends;
      if (waiting.empty()) {
        if (send && static_cast<int64_t>(state->source.size()) <= options_.eager_bytes) {
          state->copy.assign(state->source.begin(), state->source.end());
          state->source = state->copy;
          state->eager = true;
          state->Finish(state->info().bytes, state->visible());
        }
        (send ? box.sends : box.receives).push_back(state);
        return;
      }
      other = std::move(waiting.front());
      waiting.pop_front();
    }
    if (send) {
      Deliver(*state, *other);
    } else {
      Deliver(*other, *state);
    }
  }

  void Abort(const absl::Status& why) {
    std::vector<std::shared_ptr<State>> ended;
    {
      std::lock_guard lock(mutex_);
      if (!status_.ok()) return;
      status_ = why;
      for (auto& [key, box] : mailboxes_) {
        for (auto* queue : {&box.sends, &box.receives}) {
          for (std::shared_ptr<State>& state : *queue) {
            if (!state->eager) ended.push_back(std::move(state));
          }
          queue->clear();
        }
      }
    }
    for (const std::shared_ptr<State>& state : ended) state->Fail(why);
  }

 private:
  using Key = std::tuple<int, int, int>;  // sender, receiver, channel
  struct Mailbox {
    std::deque<std::shared_ptr<State>> sends, receives;  // at most one of them is not empty
    int64_t sent = 0, received = 0;
  };

  static Key KeyOf(const TransferInfo& info) {
    return info.kind == TransferInfo::Kind::kSend ? Key{info.rank, info.peer, info.channel.id}
                                                  : Key{info.peer, info.rank, info.channel.id};
  }

  static void Deliver(State& send, State& receive) {
    const int64_t bytes = send.info().bytes;
    const bool fits = receive.message != nullptr || receive.info().bytes == bytes;
    if (fits) {
      if (receive.message != nullptr) {
        receive.message->resize(send.source.size());
        receive.target = *receive.message;
      }
      if (bytes > 0) std::memcpy(receive.target.data(), send.source.data(), send.source.size());
      receive.Finish(bytes, receive.visible());
    } else {
      receive.Fail(InvalidArgument("a message of {} bytes came", bytes));
    }
    if (!send.eager) send.Finish(bytes, send.visible());
  }

  const int size_;
  const ThreadTransportOptions options_;
  mutable std::mutex mutex_;
  absl::Status status_;
  std::map<Key, Mailbox> mailboxes_;
  std::map<int, int64_t> transfers_;  // by rank
};

void ThreadWorld::State::GiveUp() {
  shared_.Abort(absl::CancelledError(ToString(info()) + ": given up"));
  // It was taken out of its mailbox before, and is being copied: that ends by itself.
  while (!finished()) std::this_thread::yield();
}

class ThreadWorld::Endpoint : public Transport {
 public:
  Endpoint(int rank, Shared& shared) : rank_(rank), shared_(shared) {}

  int rank() const override { return rank_; }
  int size() const override { return shared_.size(); }

  Transfer Send(int peer, const Channel& channel, std::span<const std::byte> bytes) override {
    const auto state = shared_.Make(TransferInfo::Kind::kSend, rank_, peer, channel,
                                    static_cast<int64_t>(bytes.size()));
    state->source = bytes;
    shared_.Post(state);
    return Transfer(state);
  }

  Transfer Receive(int peer, const Channel& channel, std::span<std::byte> into) override {
    const auto state = shared_.Make(TransferInfo::Kind::kReceive, rank_, peer, channel,
                                    static_cast<int64_t>(into.size()));
    state->target = into;
    shared_.Post(state);
    return Transfer(state);
  }

  Transfer ReceiveMessage(int peer, const Channel& channel, std::vector<std::byte>* into) override {
    const auto state = shared_.Make(TransferInfo::Kind::kReceive, rank_, peer, channel, -1);
    state->message = into;
    shared_.Post(state);
    return Transfer(state);
  }

  absl::Status status() const override { return shared_.status(); }

 private:
  void DoAbort(const absl::Status& why) override { shared_.Abort(why); }

  int rank_;
  Shared& shared_;
};

ThreadWorld::ThreadWorld(int ranks, const ThreadTransportOptions& options)
    : shared_(std::make_unique<Shared>(ranks, options)) {
  MNEMO_CHECK(ranks >= 1);
  for (int rank = 0; rank < ranks; ++rank) {
    endpoints_.push_back(std::make_unique<Endpoint>(rank, *shared_));
  }
}

ThreadWorld::~ThreadWorld() = default;

int ThreadWorld::size() const { return shared_->size(); }

Transport& ThreadWorld::rank(int rank) { return *endpoints_.at(rank); }

namespace {

absl::Status RunGuarded(const std::function<absl::Status(Transport&)>& body, Transport& transport) {
  try {
    return body(transport);
  } catch (const TensorError& error) {
    return error.status();
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

}  // namespace

absl::Status RunOnThreads(int ranks, const ThreadTransportOptions& options,
                          const std::function<absl::Status(Transport&)>& body) {
  ThreadWorld world(ranks, options);
  std::mutex mutex;
  std::vector<absl::Status> errors;  // in the order of their coming
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      SetThreadsForThisThread(1);
      Transport& transport = world.rank(rank);
      const absl::Status status = RunGuarded(body, transport);
      if (status.ok()) return;
      {
        std::lock_guard lock(mutex);
        errors.push_back(status);
      }
      transport.Abort(status);
    });
  }
  threads.clear();
  if (errors.empty()) return absl::OkStatus();
  // A rank whose wait was ended by another's failure may be the first to return; its message then
  // holds the reason for the abort.
  const std::string reason(world.rank(0).status().message());
  for (const absl::Status& error : errors) {
    if (std::string(error.message()).find(reason) == std::string::npos) return error;
  }
  return errors.front();
}

}  // namespace mnemo
