// One server stream of messages. Includes gRPC's headers, so only services include it.
#pragma once

#include <grpcpp/support/server_callback.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace mnemo {

// `Reactor` is gRPC's, of a stream that writes `Message`s. A call lives, in a shared_ptr that it
// holds itself from Begin() on, until gRPC is done with it; what else may call it holds a weak_ptr.
// Any thread may call Pump and End.
template <typename Reactor, typename Message>
class StreamCall : public Reactor,
                   public std::enable_shared_from_this<StreamCall<Reactor, Message>> {
 public:
  void OnWriteDone(bool ok) final {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
    }
    ok ? Pump() : End(grpc::Status::CANCELLED);
  }
  void OnDone() override { self_.reset(); }

  // Starts the one thing that may be done now, if any: a write, or, if there is nothing in flight
  // and an end is wanted, the end.
  void Pump() {
    bool write = false;
    {
      std::lock_guard lock(mutex_);
      if (writing_ || finished_) return;
      if (!end_) {
        if (auto next = Next()) {
          message_ = *std::move(next);
          write = writing_ = true;
        } else if (Drained()) {
          end_ = grpc::Status::OK;
        }
      }
      if (!write && !end_) return;
      finished_ = !write;
    }
    // A write in flight keeps this alive and everything else from starting, so neither call needs
    // the lock; gRPC may call back from within them.
    write ? this->StartWrite(&message_) : this->Finish(*end_);
  }

 protected:
  // Before anything else.
  void Begin() { self_ = this->shared_from_this(); }
  // What Next() and Drained() read is written under this.
  std::mutex& mutex() { return mutex_; }
  // The first one counts. What is not yet written is dropped.
  void End(const grpc::Status& status) {
    {
      std::lock_guard lock(mutex_);
      if (!end_) end_ = status;
    }
    Pump();
  }

 private:
  // What to write next, if there is anything, and whether nothing will come any more. Called under
  // mutex(): neither may call Pump or End.
  virtual std::optional<Message> Next() = 0;
  virtual bool Drained() { return false; }

  // Guards what follows, but the message, which whoever sets writing_ owns, and self.
  std::mutex mutex_;
  std::optional<grpc::Status> end_;  // wanted
  bool writing_ = false, finished_ = false;
  Message message_;
  std::shared_ptr<StreamCall> self_;
};

}  // namespace mnemo
