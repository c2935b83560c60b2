// Jobs that go wrong, one way for each argument. A rank checks what it hears and writes a file;
// when all have done so, rank 0 prints "N of N as expected", and ends the job the hard way.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

#include "src/core/status.h"
#include "src/parallel/mpi/session.h"

namespace mnemo {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

const Channel kChannel{5, "test"};

bool Check(const absl::Status& status, absl::StatusCode code, std::string_view part) {
  const bool good =
      status.code() == code && std::string(status.message()).find(part) != std::string::npos;
  std::cerr << (good ? "heard: " : "unexpected: ") << status << std::endl;
  return good;
}

// The last rank fails; the others are in the middle of receiving, and hear why.
bool RunAbort(Transport& t) {
  if (t.rank() == t.size() - 1) {
    std::this_thread::sleep_for(200ms);
    t.Abort(NotFound("no such file"));
    std::byte byte{};
    return Check(t.Send(0, kChannel, {&byte, 1}).Wait(10s), absl::StatusCode::kNotFound, "send to");
  }
  std::vector<std::byte> in(100000), message;
  Transfer fixed = t.Receive(t.size() - 1, kChannel, in);
  Transfer any = t.ReceiveMessage(t.size() - 1, {6, "any"}, &message);
  const std::string why = fmt::format("rank {} failed: no such file", t.size() - 1);
  return Check(fixed.Wait(20s), absl::StatusCode::kNotFound, why) &&
         Check(any.Wait(20s), absl::StatusCode::kNotFound, "receive from rank");
}

// A rank drops a receive that it had posted.
bool RunDrop(Transport& t) {
  std::vector<std::byte> in(100);
  Transfer receive = t.Receive(1 - t.rank(), kChannel, in);
  if (t.rank() == 0) {
    receive = Transfer();
    return Check(t.status(), absl::StatusCode::kCancelled, "given up");
  }
  return Check(receive.Wait(20s), absl::StatusCode::kCancelled, "rank 0: receive from rank 1");
}

// Shorter and longer messages than expected, in one part and in several.
bool RunLength(Transport& t) {
  if (t.rank() == 0) {
    const std::vector<std::byte> nine(9);
    Transfer send = t.Send(1, kChannel, nine);
    std::byte byte{};
    // The other rank goes on after this error, and fails only when it drops its session.
    return send.Wait(20s).ok() && !t.Receive(1, kChannel, {&byte, 1}).Wait(20s).ok();
  }
  std::vector<std::byte> ten(10);
  Transfer receive = t.Receive(0, kChannel, ten);
  const bool good = Check(receive.Wait(20s), absl::StatusCode::kInvalidArgument,
                          "10 bytes, message 0: a message of 9 bytes came");
  t.Abort(receive.Wait(0s));
  return good;
}

// One rank is not there when the other wants to end.
bool RunLateFinish(MpiSession& session) {
  if (session.rank() == 1) {
    std::this_thread::sleep_for(1500ms);
    return true;
  }
  return Check(session.Finish(500ms), absl::StatusCode::kDeadlineExceeded, "'end of the job'");
}

bool Run(MpiSession& session, std::string_view mode) {
  Transport& t = session.transport();
  if (mode == "abort") return RunAbort(t);
  if (mode == "drop") return RunDrop(t);
  if (mode == "length") return RunLength(t);
  if (mode == "late-finish") return RunLateFinish(session);
  // vanish: a rank leaves as if it had been killed; mpirun ends the job.
  if (session.rank() == 0) std::_Exit(0);
  std::this_thread::sleep_for(30s);
  return false;
}

}  // namespace
}  // namespace mnemo

int main(int argc, char** argv) {
  using namespace std::chrono_literals;
  if (argc != 2) return 2;
  auto session = mnemo::MpiSession::Start();
  if (!session.ok()) {
    std::cerr << session.status() << "\n";
    return 2;
  }
  const int size = (*session)->size(), rank = (*session)->rank();
  // The ranks can no longer talk when they are done, but are children of one mpirun.
  const auto mark = [&](int of) {
    return std::filesystem::temp_directory_path() /
           fmt::format("mpi_failures_{}_{}_{}", argv[1], getppid(), of);
  };
  if (mnemo::Run(**session, argv[1])) std::ofstream(mark(rank)) << "ok\n";
  if (rank != 0) {
    std::this_thread::sleep_for(20s);
    return 1;
  }
  int good = 0;
  for (int tries = 0; good < size && tries < 100; ++tries) {
    std::this_thread::sleep_for(50ms);
    good = 0;
    for (int of = 0; of < size; ++of) good += std::filesystem::exists(mark(of));
  }
  for (int of = 0; of < size; ++of) std::filesystem::remove(mark(of));
  std::cout << good << " of " << size << " as expected" << std::endl;
  (*session)->Kill(3);
}
