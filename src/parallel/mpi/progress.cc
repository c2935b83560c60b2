#include "src/parallel/mpi/progress.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "src/core/status.h"
#include "src/parallel/mpi/check.h"

namespace mnemo::internal {
namespace {

using namespace std::chrono_literals;

constexpr int kAlarmTag = 1 << 24;  // above every channel
// The longest pauses between polls: with nothing under way; with receives posted that nobody waits
// for yet; and where somebody waits, here or, for what is sent, on the other side.
constexpr auto kIdlePause = 20ms;
constexpr auto kEasyPause = 2ms;
constexpr auto kHurriedPause = 300us;
// How long a failed rank waits for MPI to let go of buffers.
constexpr auto kGrace = 200ms;

}  // namespace

void MpiTransfer::GiveUp() {
  progress_.Abort(absl::CancelledError(ToString(info()) + ": given up"));
  while (!finished()) std::this_thread::sleep_for(1ms);
}

void MpiTransfer::BeginWait() { progress_.AddWaiter(1); }
void MpiTransfer::EndWait() { progress_.AddWaiter(-1); }

MpiProgress::MpiProgress(MPI_Comm comm, int rank, int size, const MpiOptions& options)
    : comm_(comm), rank_(rank), size_(size), options_(options), first_alarm_(size) {
  thread_ = std::thread([this] { Loop(); });
}

void MpiProgress::Post(std::shared_ptr<MpiTransfer> transfer) {
  {
    std::lock_guard lock(mutex_);
    if (!status_.ok()) {
      transfer->Fail(status_);
      return;
    }
    MNEMO_CHECK(!stop_, "MPI has ended");
    posted_.push_back(std::move(transfer));
  }
  changed_.notify_one();
}

void MpiProgress::AddWaiter(int change) {
  {
    std::lock_guard lock(mutex_);
    waiters_ += change;
    if (change < 0) return;
    hurry_ = true;
  }
  changed_.notify_one();
}

void MpiProgress::Abort(const absl::Status& why) {
  {
    std::lock_guard lock(mutex_);
    if (!status_.ok()) return;
    status_ = why;
  }
  changed_.notify_one();
}

absl::Status MpiProgress::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

int MpiProgress::FirstAlarm() const {
  std::lock_guard lock(mutex_);
  return first_alarm_;
}

void MpiProgress::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void MpiProgress::Loop() {
  ListenForAlarm();
  Clock::duration pause = 0us;
  for (bool stop = false; !stop;) {
    bool moved = Collect(pause, stop);
    const absl::Status why = status();
    if (!why.ok() && !failed_) FailEverything(why);
    moved |= StartDue();
    moved |= Test();
    HearAlarm();
    pause = moved ? 0us : std::min(pause + 1us + pause / 8, LongestPause());
    if (Idle()) pause = kIdlePause;
  }
  if (!failed_ && !Idle()) {
    Fail(absl::CancelledError("its MPI session ended with messages under way"));
  }
  // MPI is about to end: a receive that cannot be withdrawn ends with it.
  if (alarm_ != MPI_REQUEST_NULL && MPI_Cancel(&alarm_) == MPI_SUCCESS) {
    (void)MPI_Wait(&alarm_, MPI_STATUS_IGNORE);
  }
}

MpiProgress::Clock::duration MpiProgress::LongestPause() const {
  const bool sending = std::any_of(owners_.begin(), owners_.end(), [](const auto& owner) {
    return owner == nullptr || owner->info().kind == TransferInfo::Kind::kSend;
  });
  std::lock_guard lock(mutex_);
  return sending || waiters_ > 0 ? Clock::duration(kHurriedPause) : Clock::duration(kEasyPause);
}

// Sleeps up to `pause` or until there is something new, and takes that in. Short pauses only yield.
bool MpiProgress::Collect(Clock::duration pause, bool& stop) {
  std::vector<std::shared_ptr<MpiTransfer>> taken;
  {
    std::unique_lock lock(mutex_);
    const auto news = [&] {
      return stop_ || hurry_ || !posted_.empty() || (!status_.ok() && !failed_);
    };
    if (!news()) {
      if (pause < 20us) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
      } else {
        changed_.wait_for(lock, pause, news);
      }
    }
    stop = stop_;
    hurry_ = false;
    taken.swap(posted_);
  }
  for (auto& transfer : taken) {
    const TransferInfo& info = transfer->info();
    waiting_[{info.kind, info.peer, info.channel.id}].push_back(std::move(transfer));
  }
  return !taken.empty();
}

bool MpiProgress::Idle() const {
  return requests_.empty() && std::all_of(waiting_.begin(), waiting_.end(),
                                          [](const auto& entry) { return entry.second.empty(); });
}

bool MpiProgress::StartDue() {
  bool any = false;
  const Clock::time_point now = Clock::now();
  for (auto& [key, queue] : waiting_) {
    while (!failed_ && !queue.empty() && queue.front()->start <= now) {
      const std::shared_ptr<MpiTransfer>& transfer = queue.front();
      const bool whole =
          transfer->message == nullptr && transfer->info().bytes < options_.part_bytes;
      absl::Status status;
      if (transfer->info().kind == TransferInfo::Kind::kSend) {
        status = StartSend(transfer);
      } else if (whole) {
        status = StartReceive(transfer);
      } else {
        const absl::StatusOr<bool> complete = Probe(transfer);
        if (complete.ok() && !*complete) break;
        status = complete.status();
      }
      if (!status.ok()) {
        Fail(status);
        return any;
      }
      queue.pop_front();
      any = true;
    }
  }
  return any;
}

// As many whole parts as fit, then one that is shorter, which may be empty: that is how the
// receiver knows where the message ends.
absl::Status MpiProgress::StartSend(const std::shared_ptr<MpiTransfer>& transfer) {
  const int64_t bytes = transfer->info().bytes;
  for (int64_t begin = 0; begin <= bytes; begin += options_.part_bytes) {
    const int count = static_cast<int>(std::min(options_.part_bytes, bytes - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    MNEMO_RETURN_IF_ERROR(
        MNEMO_MPI(MPI_Isend(transfer->source.data() + begin, count, MPI_BYTE, transfer->info().peer,
                            transfer->info().channel.id, comm_, &request)));
    requests_.push_back(request);
    owners_.push_back(transfer);
    ++transfer->open_parts;
  }
  return absl::OkStatus();
}

absl::Status MpiProgress::StartReceive(const std::shared_ptr<MpiTransfer>& transfer) {
  MPI_Request request = MPI_REQUEST_NULL;
  MNEMO_RETURN_IF_ERROR(MNEMO_MPI(
      MPI_Irecv(transfer->target.data(), static_cast<int>(transfer->target.size()), MPI_BYTE,
                transfer->info().peer, transfer->info().channel.id, comm_, &request)));
  requests_.push_back(request);
  owners_.push_back(transfer);
  ++transfer->open_parts;
  return absl::OkStatus();
}

// Looks for the parts of a message of unknown length. Once the last is there the length is known,
// and all are received at once. True if so.
absl::StatusOr<bool> MpiProgress::Probe(const std::shared_ptr<MpiTransfer>& transfer) {
  const TransferInfo& info = transfer->info();
  do {
    int there = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    MNEMO_RETURN_IF_ERROR(
        MNEMO_MPI(MPI_Improbe(info.peer, info.channel.id, comm_, &there, &message, &status)));
    if (!there) return false;
    int count = 0;
    MNEMO_RETURN_IF_ERROR(MNEMO_MPI(MPI_Get_count(&status, MPI_BYTE, &count)));
    transfer->found.emplace_back(message, count);
  } while (transfer->found.back().second == options_.part_bytes);

  int64_t bytes = 0;
  for (const auto& [message, count] : transfer->found) bytes += count;
  if (transfer->message != nullptr) {
    transfer->message->resize(static_cast<size_t>(bytes));
    transfer->target = *transfer->message;
  } else if (bytes != info.bytes) {
    return InvalidArgument("{}: a message of {} bytes came", ToString(info), bytes);
  }
  std::byte* into = transfer->target.data();
  for (auto& [message, count] : transfer->found) {
    MPI_Request request = MPI_REQUEST_NULL;
    MNEMO_RETURN_IF_ERROR(
        MNEMO_MPI(MPI_Imrecv(into, static_cast<int>(count), MPI_BYTE, &message, &request)));
    requests_.push_back(request);
    owners_.push_back(transfer);
    ++transfer->open_parts;
    into += count;
  }
  return true;
}

// Lets MPI work, and ends what is done.
bool MpiProgress::Test() {
  if (requests_.empty()) return false;
  const int count = static_cast<int>(requests_.size());
  std::vector<int> indices(requests_.size());
  std::vector<MPI_Status> statuses(requests_.size());
  int done = 0;
  const int code = MPI_Testsome(count, requests_.data(), &done, indices.data(), statuses.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) {
    Fail(MNEMO_MPI(code));
    return false;
  }
  if (done == MPI_UNDEFINED || done == 0) return false;
  for (int i = 0; i < done; ++i) {
    const bool failed = code == MPI_ERR_IN_STATUS && statuses[i].MPI_ERROR != MPI_SUCCESS;
    const std::shared_ptr<MpiTransfer> owner = std::move(owners_[indices[i]]);
    requests_[indices[i]] = MPI_REQUEST_NULL;
    if (owner != nullptr) EndPart(owner, statuses[i], failed);
  }
  Compact();
  return true;
}

void MpiProgress::EndPart(const std::shared_ptr<MpiTransfer>& transfer, const MPI_Status& status,
                          bool failed) {
  const bool send = transfer->info().kind == TransferInfo::Kind::kSend;
  int class_of = MPI_SUCCESS;
  if (failed) (void)MPI_Error_class(status.MPI_ERROR, &class_of);  // no class: no truncation
  if (class_of == MPI_ERR_TRUNCATE) {
    transfer->error = InvalidArgument("a longer message came");
  } else if (failed) {
    transfer->error = MNEMO_MPI(status.MPI_ERROR);
  } else if (send) {
    transfer->bytes_moved = transfer->info().bytes;
  } else {
    int count = 0;
    transfer->error.Update(MNEMO_MPI(MPI_Get_count(&status, MPI_BYTE, &count)));
    transfer->bytes_moved += count;
  }
  if (--transfer->open_parts == 0) Complete(*transfer);
}

void MpiProgress::Complete(MpiTransfer& transfer) {
  if (failed_) return;  // FailEverything ends it
  const int64_t expected = transfer.info().bytes;
  if (transfer.error.ok() && expected >= 0 && transfer.bytes_moved != expected) {
    transfer.error = InvalidArgument("a message of {} bytes came", transfer.bytes_moved);
  }
  if (transfer.error.ok()) {
    transfer.Finish(transfer.bytes_moved);
  } else {
    transfer.Fail(transfer.error);
  }
}

void MpiProgress::Compact() {
  size_t kept = 0;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    requests_[kept] = requests_[i];
    owners_[kept++] = std::move(owners_[i]);
  }
  requests_.resize(kept);
  owners_.resize(kept);
}

// A failure of this rank, found by the thread itself.
void MpiProgress::Fail(const absl::Status& why) {
  Abort(absl::Status(why.code(),
                     fmt::format("rank {} failed: {}", rank_, std::string(why.message()))));
  if (!failed_) FailEverything(status());
}

// What has not started ends at once. Receives are cancelled; then they and what is being sent get a
// moment to end by themselves, so that MPI lets go of the buffers. What is still open after that
// belongs to a peer that no longer answers: the process is about to end.
void MpiProgress::FailEverything(const absl::Status& why) {
  failed_ = true;
  std::vector<std::shared_ptr<MpiTransfer>> open;
  for (auto& [key, queue] : waiting_) {
    open.insert(open.end(), queue.begin(), queue.end());
    queue.clear();
  }
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (owners_[i] == nullptr) continue;
    if (std::find(open.begin(), open.end(), owners_[i]) == open.end()) open.push_back(owners_[i]);
    // One that cannot be cancelled runs into the grace below.
    if (owners_[i]->info().kind == TransferInfo::Kind::kReceive) (void)MPI_Cancel(&requests_[i]);
  }
  if (!heard_) TellOthers(why);
  const Clock::time_point end = Clock::now() + kGrace;
  while (!requests_.empty() && Clock::now() < end) {
    if (!Test()) std::this_thread::sleep_for(1ms);
  }
  for (const std::shared_ptr<MpiTransfer>& transfer : open) {
    if (!transfer->finished()) transfer->Fail(why);
  }
  requests_.clear();
  owners_.clear();
}

void MpiProgress::TellOthers(const absl::Status& why) {
  const std::string text =
      fmt::format("{} {}", static_cast<int>(why.code()),
                  std::string(why.message()).substr(0, alarm_text_.size() - 16));
  alarm_sent_.assign(text.begin(), text.end());
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    if (MPI_Isend(alarm_sent_.data(), static_cast<int>(alarm_sent_.size()), MPI_CHAR, peer,
                  kAlarmTag, comm_, &request) != MPI_SUCCESS) {
      continue;
    }
    requests_.push_back(request);
    owners_.push_back(nullptr);
  }
}

void MpiProgress::ListenForAlarm() {
  if (size_ == 1) return;
  const absl::Status status =
      MNEMO_MPI(MPI_Irecv(alarm_text_.data(), static_cast<int>(alarm_text_.size()), MPI_CHAR,
                          MPI_ANY_SOURCE, kAlarmTag, comm_, &alarm_));
  if (!status.ok()) Fail(status);
}

void MpiProgress::HearAlarm() {
  if (alarm_ == MPI_REQUEST_NULL) return;
  int done = 0;
  MPI_Status status;
  int count = 0;
  absl::Status heard = MNEMO_MPI(MPI_Test(&alarm_, &done, &status));
  if (heard.ok() && !done) return;
  if (heard.ok()) heard = MNEMO_MPI(MPI_Get_count(&status, MPI_CHAR, &count));
  if (!heard.ok()) {  // deaf to the others from here on: as good as failed
    alarm_ = MPI_REQUEST_NULL;
    Fail(heard);
    return;
  }
  const std::string text(alarm_text_.data(), static_cast<size_t>(count));
  const size_t space = text.find(' ');
  const int code = std::atoi(text.c_str());
  const std::string message = space == std::string::npos ? text : text.substr(space + 1);
  if (this->status().ok()) heard_ = true;
  {
    std::lock_guard lock(mutex_);
    first_alarm_ = std::min(first_alarm_, status.MPI_SOURCE);
  }
  ListenForAlarm();  // others may have failed by themselves before they heard
  Abort(absl::Status(static_cast<absl::StatusCode>(code), message));
}

}  // namespace mnemo::internal
