// Messages between the ranks of a job: point to point, asynchronous, reliable, and in order on each
// (peer, channel). Everything between ranks is built on this: communicator.h, relay.h.
//
// Failure is final. Once a transport is aborted, by its own rank or by another, every wait ends
// with the reason instead of hanging, and nothing more is sent.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace mnemo {

using Timeout = std::chrono::milliseconds;

// What a live peer answers within. A wait for another rank's work needs longer; its owner says.
inline constexpr Timeout kLivenessTimeout = std::chrono::seconds(10);

// A stream of messages between a pair of ranks, in each direction. Both sides use the same id.
struct Channel {
  int id = 0;        // 0 <= id < 2^24
  std::string name;  // for messages to people
};

struct TransferInfo {
  enum class Kind : uint8_t { kSend, kReceive };
  Kind kind = Kind::kSend;
  int rank = 0;  // whose operation it is
  int peer = 0;
  Channel channel;
  int64_t bytes = 0;     // -1: a message of any length
  int64_t sequence = 0;  // of its kind on this (peer, channel), from 0
};
// "rank 1: receive from rank 0 on 'relay forward 0' (channel 64), 512 bytes, message 7".
std::string ToString(const TransferInfo& info);

// For tests: every transfer is held back by a random time, the same for the same seed.
struct DelayOptions {
  std::chrono::microseconds longest{0};  // 0: none
  uint64_t seed = 0;
};
// The delay of a rank's transfer number `index`.
std::chrono::microseconds DelayOf(const DelayOptions& options, int rank, int64_t index);

namespace internal {

// The shared part of a transfer. Thread-safe.
class TransferState {
 public:
  using Clock = std::chrono::steady_clock;

  explicit TransferState(TransferInfo info) : info_(std::move(info)) {}
  virtual ~TransferState() = default;
  TransferState(const TransferState&) = delete;
  TransferState& operator=(const TransferState&) = delete;

  const TransferInfo& info() const { return info_; }
  bool Done() const;
  bool finished() const;  // the same, whether the waiter may see it yet or not
  absl::Status Wait(Timeout timeout);
  int64_t moved() const;

  // Called by the transport, once: the buffer will not be touched any more. The end may be kept
  // from the waiter until `visible`.
  void Finish(int64_t moved, Clock::time_point visible = {});
  void Fail(const absl::Status& why);  // the message gets this transfer's description in front

  // The handle was dropped early: stop touching the buffer, abort the transport, be done.
  virtual void GiveUp() = 0;
  // Around a wait for what is not done: the transport may hurry.
  virtual void BeginWait() {}
  virtual void EndWait() {}

 private:
  const TransferInfo info_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  absl::Status status_;
  int64_t moved_ = 0;
  Clock::time_point visible_;
};

}  // namespace internal

// A message on its way. Movable. Its buffer belongs to the transport until it is done. Dropping it
// before that gives it up and aborts the transport: what follows on the channel could no longer be
// told apart.
class Transfer {
 public:
  Transfer() = default;
  explicit Transfer(std::shared_ptr<internal::TransferState> state) : state_(std::move(state)) {}
  ~Transfer() { Drop(); }
  Transfer(Transfer&& other) noexcept = default;
  Transfer& operator=(Transfer&& other) noexcept;

  bool valid() const { return state_ != nullptr; }
  bool Done() const { return state_->Done(); }  // well or badly
  // Send: the buffer may be used again. Receive: the message is in the buffer. Errors, all with the
  // transfer's description: DeadlineExceeded if not done in time (it goes on, and may be waited for
  // again); InvalidArgument if the message has not the expected length; the reason if aborted.
  absl::Status Wait(Timeout timeout) { return state_->Wait(timeout); }
  int64_t bytes() const { return state_->moved(); }  // moved; after Wait

 private:
  void Drop();
  std::shared_ptr<internal::TransferState> state_;
};

// One rank's end. Thread-safe. Outlives its transfers.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // None of these blocks or fails: what goes wrong comes out of Wait. A send may be done only when
  // the peer has posted the receive.
  virtual Transfer Send(int peer, const Channel& channel, std::span<const std::byte> bytes) = 0;
  virtual Transfer Receive(int peer, const Channel& channel, std::span<std::byte> into) = 0;
  // A message of any length; `into` is resized, its capacity used again.
  virtual Transfer ReceiveMessage(int peer, const Channel& channel,
                                  std::vector<std::byte>* into) = 0;

  // Ends every transfer of this rank, and as far as they can be reached of the others, with `why`
  // (not OK), to which "rank N failed: " is added. Later calls change nothing.
  void Abort(const absl::Status& why);
  virtual absl::Status status() const = 0;  // OK until aborted

 private:
  virtual void DoAbort(const absl::Status& why) = 0;
};

}  // namespace mnemo
