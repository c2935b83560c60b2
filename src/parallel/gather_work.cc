#include "src/parallel/gather_work.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "src/core/status.h"

namespace mnemo {
namespace {

using SteadyClock = std::chrono::steady_clock;

// A message's first byte: whether the sender still works, or what follows is its result.
constexpr char kWorks = '.', kResult = '=';

class WorkGathering {
 public:
  WorkGathering(Transport& transport, const CommunicatorOptions& options)
      : transport_(transport), options_(options) {}

  absl::StatusOr<std::vector<std::string>> Run(const std::function<std::string()>& work) {
    {
      const SignsOfLife signs(*this);
      result_ += work();
    }
    SendToAll(result_);
    const absl::Status status = Gather();
    if (!status.ok()) {
      transport_.Abort(status);  // before transfers are dropped, so that this is the reason
      return status;
    }
    std::vector<std::string> results;
    for (const Peer& peer : peers_) results.push_back(TextOf(peer.message));
    return results;
  }

 private:
  struct Peer {
    std::vector<std::byte> message;
    Transfer receive;
    SteadyClock::time_point heard;
    bool done = false;
  };

  // Sends signs of life as long as it lives.
  class SignsOfLife {
   public:
    explicit SignsOfLife(WorkGathering& gathering) : gathering_(gathering) {
      if (gathering_.options_.ranks.size() > 1) thread_ = std::thread([this] { Send(); });
    }
    ~SignsOfLife() {
      {
        const std::lock_guard lock(mutex_);
        over_ = true;
      }
      changed_.notify_all();
      if (thread_.joinable()) thread_.join();
    }

   private:
    void Send() {
      std::unique_lock lock(mutex_);
      const Timeout pause = gathering_.options_.timeout / 4;
      while (!changed_.wait_for(lock, pause, [&] { return over_; })) {
        gathering_.SendToAll({&kWorks, 1});
      }
    }

    WorkGathering& gathering_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool over_ = false;
    std::thread thread_;
  };

  static std::string TextOf(const std::vector<std::byte>& message) {
    return {reinterpret_cast<const char*>(message.data()) + 1, message.size() - 1};
  }

  bool IsSelf(size_t peer) const { return options_.ranks[peer] == transport_.rank(); }

  // Waits for no one: a peer that works takes its messages when it has done.
  void SendToAll(std::string_view message) {
    for (size_t peer = 0; peer < options_.ranks.size(); ++peer) {
      if (IsSelf(peer)) continue;
      sends_.push_back(transport_.Send(options_.ranks[peer], options_.channel,
                                       std::as_bytes(std::span(message))));
    }
  }

  void Listen(size_t peer) {
    peers_[peer].receive =
        transport_.ReceiveMessage(options_.ranks[peer], options_.channel, &peers_[peer].message);
    peers_[peer].heard = SteadyClock::now();
  }

  // A message of a peer has come, or none will.
  absl::Status Take(size_t index) {
    Peer& peer = peers_[index];
    MNEMO_RETURN_IF_ERROR(peer.receive.Wait(options_.timeout));
    if (peer.message.empty()) return DataLoss("an empty message came where a result was due");
    peer.done = peer.message[0] == std::byte{kResult};
    if (!peer.done) Listen(index);
    return absl::OkStatus();
  }

  // Waits for something to change with one that works, and looks at all.
  absl::Status Look(bool& all_done) {
    all_done = true;
    for (size_t index = 0; index < peers_.size(); ++index) {
      Peer& peer = peers_[index];
      if (peer.done) continue;
      if (all_done && !peer.receive.Done()) {
        (void)peer.receive.Wait(options_.timeout / 8);  // an error is there in Take, too
      }
      if (peer.receive.Done()) {
        MNEMO_RETURN_IF_ERROR(Take(index));
      } else if (SteadyClock::now() >= peer.heard + options_.timeout) {
        return absl::DeadlineExceededError(fmt::format(
            "'{}': nothing was heard of rank {} for {:.1f} s", options_.channel.name,
            options_.ranks[index], std::chrono::duration<double>(options_.timeout).count()));
      }
      all_done = all_done && peer.done;
    }
    return absl::OkStatus();
  }

  absl::Status Gather() {
    peers_.resize(options_.ranks.size());
    for (size_t index = 0; index < peers_.size(); ++index) {
      if (!IsSelf(index)) {
        Listen(index);
        continue;
      }
      const auto own = std::as_bytes(std::span(result_));
      peers_[index].message.assign(own.begin(), own.end());
      peers_[index].done = true;
    }
    for (bool all_done = false; !all_done;) MNEMO_RETURN_IF_ERROR(Look(all_done));
    for (Transfer& send : sends_) MNEMO_RETURN_IF_ERROR(send.Wait(options_.timeout));
    return absl::OkStatus();
  }

  Transport& transport_;
  const CommunicatorOptions& options_;
  std::string result_{kResult};
  std::vector<Peer> peers_;
  std::vector<Transfer> sends_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> GatherWork(Transport& transport,
                                                    const CommunicatorOptions& options,
                                                    const std::function<std::string()>& work) {
  return WorkGathering(transport, options).Run(work);
}

}  // namespace mnemo
