#include "src/parallel/mpi/session.h"

#include <mpi.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <tuple>

#include "src/core/status.h"
#include "src/parallel/communicator.h"
#include "src/parallel/mpi/check.h"
#include "src/parallel/mpi/progress.h"

namespace mnemo {

class MpiSession::Endpoint : public Transport {
 public:
  Endpoint(MPI_Comm comm, int rank, int size, const MpiOptions& options)
      : comm_(comm),
        rank_(rank),
        size_(size),
        options_(options),
        progress_(std::make_unique<internal::MpiProgress>(comm, rank, size, options)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Transfer Send(int peer, const Channel& channel, std::span<const std::byte> bytes) override {
    const auto transfer =
        Make(TransferInfo::Kind::kSend, peer, channel, static_cast<int64_t>(bytes.size()));
    transfer->source = bytes;
    return Post(transfer);
  }

  Transfer Receive(int peer, const Channel& channel, std::span<std::byte> into) override {
    const auto transfer =
        Make(TransferInfo::Kind::kReceive, peer, channel, static_cast<int64_t>(into.size()));
    transfer->target = into;
    return Post(transfer);
  }

  Transfer ReceiveMessage(int peer, const Channel& channel, std::vector<std::byte>* into) override {
    const auto transfer = Make(TransferInfo::Kind::kReceive, peer, channel, -1);
    transfer->message = into;
    return Post(transfer);
  }

  absl::Status status() const override { return progress_->status(); }

  MPI_Comm comm() const { return comm_; }
  internal::MpiProgress& progress() { return *progress_; }
  bool finished = false;

 private:
  void DoAbort(const absl::Status& why) override { progress_->Abort(why); }

  std::shared_ptr<internal::MpiTransfer> Make(TransferInfo::Kind kind, int peer,
                                              const Channel& channel, int64_t bytes) {
    MNEMO_CHECK(peer >= 0 && peer < size_, "rank {} of {}", peer, size_);
    MNEMO_CHECK(channel.id >= 0 && channel.id < (1 << 24));
    TransferInfo info{kind, rank_, peer, channel, bytes, 0};
    int64_t index = 0;
    {
      std::lock_guard lock(mutex_);
      info.sequence = sequences_[{kind, peer, channel.id}]++;
      index = transfers_++;
    }
    return std::make_shared<internal::MpiTransfer>(std::move(info), *progress_,
                                                   DelayOf(options_.delays, rank_, index));
  }

  Transfer Post(const std::shared_ptr<internal::MpiTransfer>& transfer) {
    progress_->Post(transfer);
    return Transfer(transfer);
  }

  MPI_Comm comm_;
  int rank_, size_;
  MpiOptions options_;
  std::mutex mutex_;
  std::map<std::tuple<TransferInfo::Kind, int, int>, int64_t> sequences_;
  int64_t transfers_ = 0;
  std::unique_ptr<internal::MpiProgress> progress_;
};

absl::StatusOr<std::unique_ptr<MpiSession>> MpiSession::Start(const MpiOptions& options) {
  int initialized = 0;
  MNEMO_RETURN_IF_ERROR(MNEMO_MPI(MPI_Initialized(&initialized)));
  if (initialized) return FailedPrecondition("MPI has been started in this process before");
  int level = MPI_THREAD_SINGLE;
  MNEMO_RETURN_IF_ERROR(
      MNEMO_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level)));
  if (level < MPI_THREAD_SERIALIZED) {
    return FailedPrecondition(
        "this MPI cannot be called from more than one thread (level {}, needs "
        "MPI_THREAD_SERIALIZED); use one that was built with thread support",
        level);
  }
  MNEMO_RETURN_IF_ERROR(MNEMO_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN)));
  MPI_Comm comm = MPI_COMM_NULL;
  MNEMO_RETURN_IF_ERROR(MNEMO_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm)));
  MNEMO_RETURN_IF_ERROR(MNEMO_MPI(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN)));
  int rank = 0, size = 0;
  MNEMO_RETURN_IF_ERROR(MNEMO_MPI(MPI_Comm_rank(comm, &rank)));
  MNEMO_RETURN_IF_ERROR(MNEMO_MPI(MPI_Comm_size(comm, &size)));
  return std::unique_ptr<MpiSession>(
      new MpiSession(std::make_unique<Endpoint>(comm, rank, size, options)));
}

MpiSession::MpiSession(std::unique_ptr<Endpoint> endpoint) : endpoint_(std::move(endpoint)) {}

MpiSession::~MpiSession() = default;

int MpiSession::rank() const { return endpoint_->rank(); }
int MpiSession::size() const { return endpoint_->size(); }
Transport& MpiSession::transport() { return *endpoint_; }
int MpiSession::FirstAlarm() const { return endpoint_->progress().FirstAlarm(); }

absl::Status MpiSession::Finish(Timeout timeout) {
  MNEMO_CHECK(!endpoint_->finished);
  CommunicatorOptions options;
  options.ranks.resize(size());
  std::iota(options.ranks.begin(), options.ranks.end(), 0);
  options.channel = {(1 << 24) - 1, "end of the job"};
  options.timeout = timeout;
  MNEMO_RETURN_IF_ERROR(MakeHostCommunicator(*endpoint_, options)->Barrier());
  endpoint_->finished = true;
  endpoint_->progress().Stop();
  MPI_Comm comm = endpoint_->comm();
  MNEMO_RETURN_IF_ERROR(MNEMO_MPI(MPI_Comm_free(&comm)));
  return MNEMO_MPI(MPI_Finalize());
}

void MpiSession::Kill(int exit_code) {
  endpoint_->progress().Stop();
  MPI_Abort(endpoint_->comm(), exit_code);
  std::abort();  // MPI_Abort should not return, but may
}

}  // namespace mnemo
