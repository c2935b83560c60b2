// The thread that makes the MPI calls of a running session (see session.h), and what it works on.
#pragma once

#include <mpi.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "src/parallel/mpi/session.h"

namespace mnemo::internal {

class MpiProgress;

// A transfer, from the thread that posted it to the progress thread, which alone touches it until
// it is done.
class MpiTransfer : public TransferState {
 public:
  MpiTransfer(TransferInfo info, MpiProgress& progress, std::chrono::microseconds delay)
      : TransferState(std::move(info)), start(Clock::now() + delay), progress_(progress) {}
  void GiveUp() override;
  void BeginWait() override;
  void EndWait() override;

  std::span<const std::byte> source;
  std::span<std::byte> target;
  std::vector<std::byte>* message = nullptr;  // or the target
  Clock::time_point start;                    // not before

  int open_parts = 0;
  int64_t bytes_moved = 0;
  absl::Status error;
  // A message being received whose last part has not been found yet.
  std::vector<std::pair<MPI_Message, int64_t>> found;

 private:
  MpiProgress& progress_;
};

// Post, Abort and status are thread-safe. Ranks are those of `comm`, which is used for nothing
// else.
class MpiProgress {
 public:
  MpiProgress(MPI_Comm comm, int rank, int size, const MpiOptions& options);
  ~MpiProgress() { Stop(); }

  void Post(std::shared_ptr<MpiTransfer> transfer);
  // A thread has begun (1) or stopped (-1) to wait for a transfer.
  void AddWaiter(int change);
  // Fails what is under way, and tells the other ranks.
  void Abort(const absl::Status& why);
  absl::Status status() const;
  // The lowest of the other ranks that have said that they failed by themselves; size if none has.
  int FirstAlarm() const;
  // Fails what is under way, and joins the thread. MPI may be called by others from then on.
  void Stop();

 private:
  using Clock = TransferState::Clock;
  // Of one kind, peer and channel: what has to start in order.
  using Key = std::tuple<TransferInfo::Kind, int, int>;
  using Queue = std::deque<std::shared_ptr<MpiTransfer>>;

  void Loop();
  bool Collect(Clock::duration pause, bool& stop);
  Clock::duration LongestPause() const;
  bool Idle() const;  // nothing under way
  bool StartDue();
  absl::Status StartSend(const std::shared_ptr<MpiTransfer>& transfer);
  absl::Status StartReceive(const std::shared_ptr<MpiTransfer>& transfer);
  absl::StatusOr<bool> Probe(const std::shared_ptr<MpiTransfer>& transfer);
  bool Test();
  void EndPart(const std::shared_ptr<MpiTransfer>& transfer, const MPI_Status& status, bool failed);
  void Complete(MpiTransfer& transfer);
  void Compact();
  void Fail(const absl::Status& why);
  void FailEverything(const absl::Status& why);
  void TellOthers(const absl::Status& why);
  void ListenForAlarm();
  void HearAlarm();

  const MPI_Comm comm_;
  const int rank_, size_;
  const MpiOptions options_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<MpiTransfer>> posted_;  // not yet seen by the thread
  absl::Status status_;
  int first_alarm_;
  bool stop_ = false;
  int waiters_ = 0;
  bool hurry_ = false;  // somebody has begun to wait

  // The thread's own.
  std::map<Key, Queue> waiting_;
  std::vector<MPI_Request> requests_;                 // what MPI works on
  std::vector<std::shared_ptr<MpiTransfer>> owners_;  // of each request; null: of an alarm sent
  bool failed_ = false;                               // status_ has been acted upon
  bool heard_ = false;                                // ... and came from another rank
  MPI_Request alarm_ = MPI_REQUEST_NULL;
  std::array<char, 1024> alarm_text_{};
  std::vector<char> alarm_sent_;
  std::thread thread_;
};

}  // namespace mnemo::internal
