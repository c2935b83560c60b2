#include "src/job/service/worker_client.h"

#include <grpcpp/channel.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "mnemo/v1/job.grpc.pb.h"
#include "src/core/host.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/service/grpc_support.h"
#include "src/job/service/report_queue.h"
#include "src/job/service/service_files.h"

namespace mnemo {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr double kCallSeconds = 5;                      // for one answer
constexpr double kFirstPause = 0.1, kLongestPause = 2;  // between attempts

// Whether there may be an answer later.
bool WorthWaiting(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsNotFound(status) || absl::IsCancelled(status);
}

}  // namespace

class WorkerClient::Impl {
 public:
  explicit Impl(WorkerOptions options) : options_(std::move(options)), queue_(options_.queue) {
    options_.self.set_host(HostName());
    options_.self.set_process(::getpid());
    step_ = options_.self.step();
  }
  ~Impl() {
    stopping_ = true;
    queue_.Close();
    {
      std::lock_guard lock(mutex_);
      if (context_ != nullptr) context_->TryCancel();
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status JoinFirst();
  void Start() {
    thread_ = std::thread([this] { Run(); });
  }
  void Push(v1::WorkerReport report) {
    report.set_rank(options_.self.rank());
    report.set_sequence(++sequence_);
    report.set_step(step_);
    report.set_operation(operation_.load());
    report.set_report_queue_waits(queue_.waits());
    queue_.Push(std::move(report));
  }
  bool WaitForEnd(double seconds) {
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, Seconds(seconds), [&] { return ended_ || over_; });
    return ended_;
  }

  WorkerOptions options_;
  v1::JoinResponse joined_;
  ReportQueue queue_;
  std::atomic<int64_t> step_ = 0, joins_ = 0;
  std::atomic<const char*> operation_ = "start";
  std::atomic<bool> save_ = false, stop_ = false, without_checkpoint_ = false, connected_ = false;

 private:
  absl::Status JoinOnce(double seconds);
  void Run();
  // Reports until the stream breaks or the end has been reported.
  void Converse();
  void SendReports(grpc::ClientReaderWriterInterface<v1::WorkerReport, v1::WorkerCommand>& stream);
  void Take(const v1::WorkerCommand& command);
  void Pause(double seconds);

  std::unique_ptr<v1::Worker::Stub> stub_;
  std::string token_;
  std::atomic<uint64_t> sequence_ = 0;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  grpc::ClientContext* context_ = nullptr;  // of the stream that is open
  std::optional<v1::WorkerReport> end_;     // sent; a coordinator may have died over it
  bool ended_ = false, over_ = false;       // the end is confirmed; nothing is sent any more
  std::thread thread_;
};

absl::Status WorkerClient::Impl::JoinOnce(double seconds) {
  MNEMO_ASSIGN_OR_RETURN(const CoordinatorFile file,
                         ReadCoordinatorFile(FileSystem::Posix(), options_.run_directory));
  MNEMO_ASSIGN_OR_RETURN(token_, ReadToken(options_.run_directory));
  stub_ = v1::Worker::NewStub(OpenChannel(file.address));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3)));
  AddToken(context, token_);
  v1::JoinRequest request = options_.self;
  request.set_step(step_);
  v1::JoinResponse response;
  const absl::Status status = FromGrpc(stub_->Join(&context, request, &response));
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
    return absl::UnavailableError(
        fmt::format("no coordinator answers at {} (from {}): {}", file.address,
                    CoordinatorFilePath(options_.run_directory), std::string(status.message())));
  }
  MNEMO_RETURN_IF_ERROR(status);
  if (joins_ == 0) {
    joined_ = response;
    options_.self.set_plan_digest(response.plan_digest());
  }
  ++joins_;
  return absl::OkStatus();
}

absl::Status WorkerClient::Impl::JoinFirst() {
  const auto until = Clock::now() + Seconds(options_.join_seconds);
  for (double pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    const double left = Seconds(until - Clock::now()).count();
    const absl::Status status = JoinOnce(std::clamp(left, 0.1, kCallSeconds));
    if (status.ok() || !WorthWaiting(status)) return status;
    if (left <= pause) {
      return absl::Status(
          status.code(),
          fmt::format("rank {} has waited {:.0f} s: {}; start it with `mnemo "
                      "coordinate`",
                      options_.self.rank(), options_.join_seconds, std::string(status.message())));
    }
    Pause(pause);
  }
}

void WorkerClient::Impl::Pause(double seconds) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, Seconds(seconds), [&] { return stopping_.load(); });
}

void WorkerClient::Impl::Take(const v1::WorkerCommand& command) {
  if (command.has_save()) save_ = true;
  if (command.has_stop()) {
    without_checkpoint_ = command.stop().without_checkpoint();
    stop_ = true;
  }
}

void WorkerClient::Impl::SendReports(
    grpc::ClientReaderWriterInterface<v1::WorkerReport, v1::WorkerCommand>& stream) {
  const double heartbeat = std::max(0.01, joined_.heartbeat_seconds());
  bool first = true;
  while (!stopping_) {
    // The first says at once who is there, so that commands find their way.
    std::optional<v1::WorkerReport> report =
        queue_.Pop(std::exchange(first, false) ? 0 : heartbeat);
    const bool beat = !report.has_value();
    if (beat) {
      report.emplace();
      report->set_rank(options_.self.rank());
      report->set_sequence(++sequence_);
      report->set_step(step_);
      report->set_operation(operation_.load());
      report->set_report_queue_waits(queue_.waits());
    }
    if (!stream.Write(*report)) {
      if (!beat) queue_.Return(*std::move(report));
      return;
    }
    connected_ = true;
    if (report->has_end()) {
      end_ = *std::move(report);
      stream.WritesDone();
      return;
    }
  }
}

void WorkerClient::Impl::Converse() {
  grpc::ClientContext context;
  AddToken(context, token_);
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    context_ = &context;
  }
  const auto stream = stub_->Report(&context);
  std::thread reader([&] {
    for (v1::WorkerCommand command; stream->Read(&command);) Take(command);
  });
  SendReports(*stream);
  if (!end_) context.TryCancel();
  reader.join();
  const grpc::Status status = stream->Finish();
  connected_ = false;
  std::lock_guard lock(mutex_);
  context_ = nullptr;
  // Only an answer to the half-close says that the coordinator has read everything.
  ended_ = end_ && status.ok();
}

void WorkerClient::Impl::Run() {
  double pause = kFirstPause;
  std::string told;  // one line for each reason
  for (bool joined = true; !stopping_;) {
    if (joined) {
      pause = kFirstPause;
      Converse();
      if (ended_ || stopping_) break;
      if (end_) {
        queue_.Return(*end_);
      } else {
        LogWarning("the coordinator is gone; training goes on");
      }
    }
    Pause(pause);
    if (stopping_) break;
    pause = std::min(2 * pause, kLongestPause);
    const absl::Status status = JoinOnce(kCallSeconds);
    joined = status.ok();
    if (joined) {
      end_.reset();
      LogInfo("joined the coordinator again");
    } else if (end_ && !WorthWaiting(status)) {
      break;  // it knows, or does not want to
    } else if (const std::string why(status.message()); !WorthWaiting(status) && why != told) {
      LogWarning("the coordinator does not take this rank back: {}; training goes on", why);
      told = why;
    }
  }
  std::lock_guard lock(mutex_);
  over_ = true;
  wake_.notify_all();
}

WorkerClient::WorkerClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkerClient::~WorkerClient() = default;

absl::StatusOr<std::unique_ptr<WorkerClient>> WorkerClient::Join(WorkerOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  MNEMO_RETURN_IF_ERROR(impl->JoinFirst());
  impl->Start();
  return std::unique_ptr<WorkerClient>(new WorkerClient(std::move(impl)));
}

const v1::JoinResponse& WorkerClient::joined() const { return impl_->joined_; }

void WorkerClient::At(int64_t step, const char* operation) {
  impl_->step_ = step;
  impl_->operation_ = operation;
}

void WorkerClient::Push(v1::StepMetrics metrics) {
  v1::WorkerReport report;
  *report.mutable_metrics() = std::move(metrics);
  impl_->Push(std::move(report));
}

void WorkerClient::Push(v1::CheckpointReport checkpoint) {
  v1::WorkerReport report;
  *report.mutable_checkpoint() = std::move(checkpoint);
  impl_->Push(std::move(report));
}

WorkerCommands WorkerClient::TakeCommands() {
  WorkerCommands commands;
  commands.save = impl_->save_.exchange(false);
  commands.stop = impl_->stop_.exchange(false);
  commands.without_checkpoint = commands.stop && impl_->without_checkpoint_;
  return commands;
}

bool WorkerClient::End(const absl::Status& status, double seconds) {
  v1::WorkerReport report;
  report.mutable_end()->set_step(impl_->step_);
  report.mutable_end()->set_error(std::string(status.message()));
  impl_->Push(std::move(report));
  return impl_->WaitForEnd(seconds);
}

int64_t WorkerClient::dropped() const { return impl_->queue_.dropped(); }
int64_t WorkerClient::waits() const { return impl_->queue_.waits(); }
int64_t WorkerClient::joins() const { return impl_->joins_; }
bool WorkerClient::connected() const { return impl_->connected_; }

}  // namespace mnemo
