// A save on a disk that fails, fills up, dies, or loses what was not synced, at every one of its
// writes, syncs and renames: afterwards the old or the new checkpoint loads, bitwise, and the next
// save works. A trace of the same save on the real file system shows that no write is left out.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <regex>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_reshard.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/training_checkpoint.h"
#include "src/parallel/thread_transport.h"
#include "tests/ckpt/checkpoint_test_util.h"
#include "tests/ckpt/disk_model.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using Fault = DiskModel::Fault;
using Left = DiskModel::Left;

constexpr int64_t kPieceBytes = 100;  // some tensors have several pieces

// What a run does, on `ranks` ranks, each in a thread of its own.
absl::Status SaveAndPrune(FileSystem& fs, const std::string& checkpoints, int64_t step,
                          const TestState& state, int ranks) {
  std::vector<absl::Status> saved(ranks);
  const absl::Status ran = RunOnThreads(ranks, {}, [&](Transport& transport) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(const auto own, Ranks::Create(transport, {ranks, 1, 1}));
    const SavedTraining mine{PiecesOf(state, own->rank(), ranks), About(step)};
    const auto directory =
        WriteTraining(fs, checkpoints, mine, *own, own->saves(),
                      {.keep = RetentionRule{.last = 1}, .piece_bytes = kPieceBytes});
    saved[own->rank()] = directory.status();
    return own->status();
  });
  EXPECT_TRUE(ran.ok()) << "ranks can talk whatever the disk does: " << ran;
  for (const absl::Status& status : saved) EXPECT_EQ(status, saved[0]) << "ranks disagree";
  return saved[0];
}

// In its own place, for one rank more.
absl::Status Reshard(FileSystem& fs, const std::string& checkpoints, int ranks) {
  MNEMO_ASSIGN_OR_RETURN(const std::string directory, FindCheckpoint(fs, checkpoints));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(fs, directory));
  return ReshardCheckpoint(fs, reader, checkpoints,
                           {.files = ranks + 1, .piece_bytes = kPieceBytes})
      .status();
}

// Empty if the checkpoint holds exactly the state, bit by bit, and every digest is right.
std::string WhatIsWrong(FileSystem& fs, const std::string& directory, const TestState& state) {
  const auto verified = VerifyCheckpoint(fs, directory);
  if (!verified.ok()) return std::string(verified.status().message());
  if (!verified->problems.empty()) return verified->problems[0];
  const auto reader = CheckpointReader::Open(fs, directory);
  if (!reader.ok()) return std::string(reader.status().message());
  if (reader->manifest().tensors_size() != static_cast<int>(state.size())) return "tensors";
  for (const auto& [name, value] : state) {
    const auto read = reader->Read(name);
    if (!read.ok()) return std::string(read.status().message());
    if (read->shape() != value.shape() || BytesOf(*read) != BytesOf(value)) return name;
  }
  return "";
}

// One kind of save: what lies on the disk before, and which step is saved.
struct Scenario {
  const char* name;
  bool has_old;      // step 1, saved and durable
  bool has_remains;  // of a save of step 2 that crashed
  int64_t step;
  bool reshards = false;   // what is there, rather than save
  const char* place = "";  // of the run, below a directory that is there; not made before the save
};
void PrintTo(const Scenario& scenario, std::ostream* out) { *out << scenario.name; }

constexpr Scenario kScenarios[] = {{"ANewStep", true, true, 2},
                                   {"TheSameStepAgain", true, false, 1},
                                   {"TheFirstOfARun", false, false, 1},
                                   {"TheFirstInANewPlace", false, false, 1, false, "/new/place"},
                                   {"TheSameCutAnew", true, true, 1, true}};

class CheckpointCrashTest : public testing::TestWithParam<std::tuple<Scenario, int>> {
 protected:
  void SetUp() override { SetLogLevel(LogLevel::kError); }
  void TearDown() override { SetLogLevel(LogLevel::kInfo); }
  static const Scenario& scenario() { return std::get<0>(GetParam()); }
  static int ranks() { return std::get<1>(GetParam()); }

  // Of the run whose place is in `base`, a directory that is there.
  static std::string CheckpointsIn(const std::string& base) {
    return base + scenario().place + "/checkpoints";
  }
  // Puts into `base` what is there before the save.
  void Prepare(FileSystem& fs, const std::string& base) const {
    const std::string checkpoints = CheckpointsIn(base);
    if (scenario().has_old) {
      ASSERT_TRUE(SaveState(fs, checkpoints, 1, old_, ranks(), kPieceBytes).ok());
    }
    if (scenario().has_remains) {
      const std::string remains = checkpoints + "/step-000000000002.tmp";
      ASSERT_TRUE(fs.MakeDirectories(remains).ok());
      ASSERT_TRUE(WriteFileAtomically(fs, remains + "/rank-00000.h5", "half").ok());
    }
  }
  absl::Status Act(FileSystem& fs, const std::string& base) const {
    if (scenario().reshards) return Reshard(fs, CheckpointsIn(base), ranks());
    return SaveAndPrune(fs, CheckpointsIn(base), scenario().step, new_, ranks());
  }

  // What must hold of a disk after the save, however it ended.
  void Check(DiskModel& disk, bool succeeded) {
    ++checked_;
    const std::string checkpoints = CheckpointsIn(kBase);
    const auto entries = ListCheckpoints(disk, checkpoints);
    ASSERT_TRUE(entries.ok()) << entries.status();
    bool has_new = false, has_old = false;
    for (const CheckpointEntry& entry : *entries) {
      ASSERT_NE(entry.state, CheckpointState::kDamaged) << entry.problem;
      if (entry.state != CheckpointState::kWhole) continue;
      const bool is_old = scenario().has_old && entry.name == CheckpointName{1, 1, false};
      const TestState& held = is_old || scenario().reshards ? old_ : new_;
      ASSERT_EQ(WhatIsWrong(disk, entry.path, held), "") << entry.path;
      (is_old ? has_old : has_new) = true;
    }
    ASSERT_TRUE(has_new || !succeeded) << "the save succeeded, and is lost";
    ASSERT_TRUE(has_new || has_old || !scenario().has_old) << "both checkpoints are lost";
    const auto saved = SaveState(disk, checkpoints, 3, next_, ranks(), kPieceBytes);
    ASSERT_TRUE(saved.ok()) << saved.status();
    // It stays, whatever calls before it have failed.
    const auto restarted = disk.AfterPowerCut(Left::kNothing, 0);
    ASSERT_EQ(WhatIsWrong(*restarted, *saved, next_), "");
  }

  // A save that failed for want of room and keeps what it wrote would starve those after it.
  static void CheckThatItsRoomIsFree(DiskModel& disk) {
    const auto entries = ListCheckpoints(disk, CheckpointsIn(kBase));
    ASSERT_TRUE(entries.ok()) << entries.status();
    for (const CheckpointEntry& entry : *entries) {
      EXPECT_NE(entry.state, CheckpointState::kLeftover) << entry.path;
    }
  }

  // The save with one call failing; then what is there as it is, and after a power cut.
  void Try(const DiskModel& prepared, Fault fault, const DiskPoint& at) {
    const auto disk = prepared.Copy();
    disk->Inject(fault, at);
    const absl::Status status = Act(*disk, kBase);
    ASSERT_TRUE(disk->injected() || fault == Fault::kNone) << "the call never came";
    const bool others_lie_there = scenario().has_remains;
    if (fault == Fault::kFull && !status.ok() && !others_lie_there) CheckThatItsRoomIsFree(*disk);
    disk->MakeRoom();
    const uint64_t seeds = fault == Fault::kDies || fault == Fault::kNone ? 4 : 1;
    for (uint64_t seed = 0; seed < seeds && !HasFatalFailure(); ++seed) {
      SCOPED_TRACE(testing::Message() << "power cut, some is left, seed " << seed);
      Check(*disk->AfterPowerCut(Left::kSome, seed), status.ok());
    }
    if (HasFatalFailure()) return;
    {
      SCOPED_TRACE("power cut, nothing unsynced is left");
      Check(*disk->AfterPowerCut(Left::kNothing, 0), status.ok());
    }
    if (HasFatalFailure()) return;
    SCOPED_TRACE("no power cut: another process goes on");
    Check(*disk->Copy(), status.ok());
  }

  // A disk with what was there before, all of it durable.
  std::unique_ptr<DiskModel> PreparedDisk() const {
    DiskModel disk;
    EXPECT_TRUE(disk.MakeDirectories(kBase).ok());
    Prepare(disk, kBase);
    auto durable = disk.AfterPowerCut(Left::kEverything, 0);
    durable->Forget();
    return durable;
  }

  static constexpr char kBase[] = "/run";
  const TestState old_ = MakeState(1), new_ = MakeState(2), next_ = MakeState(3);
  int64_t checked_ = 0;
};

INSTANTIATE_TEST_SUITE_P(, CheckpointCrashTest,
                         testing::Combine(testing::ValuesIn(kScenarios), testing::Values(1, 4)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

std::map<std::string, int> CountCalls(const std::vector<DiskPoint>& points) {
  std::map<std::string, int> counts;
  for (const DiskPoint& point : points) ++counts[point.call];
  return counts;
}

std::string ToText(const std::map<std::string, int>& counts) {
  std::string text;
  for (const auto& [call, count] : counts) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, call);
  }
  return text;
}

TEST_P(CheckpointCrashTest, TheOldOrTheNewOneIsThereAndTheNextSaveWorks) {
  const auto prepared = PreparedDisk();
  const auto clean = prepared->Copy();
  ASSERT_TRUE(Act(*clean, kBase).ok());
  const std::vector<DiskPoint> points = clean->points();
  Try(*prepared, Fault::kNone, {});
  const std::pair<Fault, const char*> faults[] = {{Fault::kFails, "fails"},
                                                  {Fault::kFailsLate, "fails late"},
                                                  {Fault::kFull, "fills up"},
                                                  {Fault::kDies, "dies"}};
  for (const auto& [fault, what] : faults) {
    for (const DiskPoint& point : points) {
      SCOPED_TRACE(testing::Message()
                   << what << " at: " << point.call << " " << point.path << " #" << point.n);
      Try(*prepared, fault, point);
      if (HasFatalFailure()) return;
    }
  }
  std::printf("%zu points (%s), %zu faults at each, %ld disks looked at\n", points.size(),
              ToText(CountCalls(points)).c_str(), std::size(faults), checked_);
}

// Calls of strace's lines, under the names of DiskPoint. What the model does not have is named as
// it is.
std::string NameOf(const std::string& call, const std::string& line) {
  static const std::regex rank_or_manifest(R"(/(rank-\d+\.h5|manifest\.pb(\.tmp)?)>)");
  if (call == "openat" || call == "open") {
    const bool writes = line.find("O_WRONLY") != line.npos || line.find("O_RDWR") != line.npos;
    return writes || line.find("O_CREAT") != line.npos ? "create" : "";
  }
  if (call == "write") return "append";
  if (call == "fsync") return std::regex_search(line, rank_or_manifest) ? "sync" : "sync directory";
  if (call == "unlink") return "remove";
  if (call == "mmap") return line.find("MAP_SHARED") != line.npos ? "mmap" : "";
  return call;
}

std::map<std::string, int> CountTraced(const std::string& trace, const std::string& place) {
  std::map<std::string, int> counts;
  std::ifstream lines(trace);
  const std::regex form(R"(^\d+ +(\w+)\()");
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    // A call that another thread's interrupts has a second line without its arguments.
    if (line.find(place) == line.npos || !std::regex_search(line, match, form)) continue;
    const std::string name = NameOf(match[1], line);
    if (!name.empty()) ++counts[name];
  }
  return counts;
}

// Names to a traced program where it saves.
constexpr char kTracedRun[] = "MNEMO_CRASH_TEST_RUN";

// Runs this test's save in `run` under strace.
bool Trace(const std::string& run, const std::string& out) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  const std::string name = fmt::format("{}.{}", test->test_suite_name(), test->name());
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command = fmt::format(
      "strace -f -y -s 0 -o '{0}' -e trace=openat,open,creat,openat2,write,pwrite64,writev,pwritev,"
      "pwritev2,fsync,fdatasync,sync_file_range,syncfs,msync,mmap,rename,renameat,renameat2,mkdir,"
      "mkdirat,unlink,unlinkat,rmdir,truncate,ftruncate,fallocate,link,linkat,symlink,symlinkat,"
      "sendfile,copy_file_range,splice env {4}='{1}' ASAN_OPTIONS=detect_leaks=0 "
      "'{2}' --gtest_filter='{3}' >'{0}.log' 2>&1",
      out, run, self, name, kTracedRun);
  const int status = std::system(command.c_str());
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  std::ifstream log(out + ".log");
  std::cout << std::string(std::istreambuf_iterator<char>(log), {});
  return false;
}

bool CanTrace() {
  return std::system("strace -o /dev/null -e trace=none true >/dev/null 2>&1") == 0;
}

TEST_P(CheckpointCrashTest, NoWriteIsLeftOut) {
  if (const char* traced_run = std::getenv(kTracedRun); traced_run != nullptr) {
    ASSERT_TRUE(Act(FileSystem::Posix(), traced_run).ok());
    return;
  }
  if (!CanTrace()) GTEST_SKIP() << "left out: strace is not here, or is not allowed to trace";
  const auto disk = PreparedDisk();
  ASSERT_TRUE(Act(*disk, kBase).ok());
  std::map<std::string, int> injected = CountCalls(disk->points());
  ASSERT_GT(injected.erase("close"), 0);  // changes nothing, and is called for files read as well
  const ScratchDirectory scratch, traces;
  ASSERT_TRUE(FileSystem::Posix().MakeDirectories(scratch / "base").ok());
  const std::string base = std::filesystem::canonical(scratch / "base");  // as strace writes it
  Prepare(FileSystem::Posix(), base);
  ASSERT_TRUE(Trace(base, traces / "trace"));
  const std::map<std::string, int> traced = CountTraced(traces / "trace", ParentDirectory(base));
  EXPECT_EQ(traced, injected);
  std::printf("traced: %s\ninjected, besides close: %s\n", ToText(traced).c_str(),
              ToText(injected).c_str());
}

}  // namespace
}  // namespace mnemo
