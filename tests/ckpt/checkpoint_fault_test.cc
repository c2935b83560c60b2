// Whatever fails while a checkpoint is written or removed: what was there before still loads.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_retention.h"
#include "src/core/log.h"
#include "tests/ckpt/checkpoint_test_util.h"
#include "tests/ckpt/faulty_file_system.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Fault = FaultyFileSystem::Fault;

FileSystem& Fs() { return FileSystem::Posix(); }

std::vector<CheckpointEntry> Entries(const std::string& checkpoints) {
  return ListCheckpoints(Fs(), checkpoints).value();
}

std::vector<std::string> WholeNames(const std::string& checkpoints) {
  std::vector<std::string> names;
  for (const CheckpointEntry& entry : Entries(checkpoints)) {
    if (entry.state == CheckpointState::kWhole) names.push_back(ToString(entry.name));
  }
  return names;
}

// Runs `act` once for each of its calls, with that call failing, on checkpoints of its own that
// `prepare` has made; then `check`.
void FailEverywhere(const std::function<void(const std::string&)>& prepare,
                    const std::function<absl::Status(FileSystem&, const std::string&)>& act,
                    const std::function<void(const std::string&, bool succeeded)>& check) {
  SetLogLevel(LogLevel::kError);  // every fault is warned of
  int calls = 0;
  for (Fault fault : {Fault::kNone, Fault::kOnce, Fault::kDead}) {
    for (int at = 0; at < (fault == Fault::kNone ? 1 : calls); ++at) {
      const ScratchDirectory scratch;
      const std::string checkpoints = scratch / "checkpoints";
      prepare(checkpoints);
      FaultyFileSystem faulty(fault, at);
      const absl::Status status = act(faulty, checkpoints);
      if (fault == Fault::kNone) calls = faulty.calls();
      ASSERT_LT(at, faulty.calls());
      SCOPED_TRACE(testing::Message()
                   << static_cast<int>(fault) << " at call " << at << ": " << faulty.log()[at]);
      if (fault == Fault::kNone) {
        EXPECT_TRUE(status.ok()) << status;
      } else if (!status.ok()) {
        EXPECT_THAT(std::string(status.message()), HasSubstr("injected: cannot "));
      }
      check(checkpoints, status.ok());
      if (testing::Test::HasFailure()) return;
    }
  }
  std::printf("%d calls, each failing alone and for good\n", calls);
}

class CheckpointFaultTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, CheckpointFaultTest, testing::Values(1, 4));

TEST_P(CheckpointFaultTest, AFailedSaveLosesNothing) {
  const TestState before = MakeState(1), after = MakeState(2), next = MakeState(3);
  FailEverywhere(
      [&](const std::string& checkpoints) {
        ASSERT_TRUE(SaveState(Fs(), checkpoints, 1, before, GetParam()).ok());
        // What an earlier crash has left is in the way of nothing.
        ASSERT_TRUE(Fs().MakeDirectories(checkpoints + "/step-000000000002.tmp").ok());
        ASSERT_TRUE(
            WriteFileAtomically(Fs(), checkpoints + "/step-000000000002.tmp/rank-00000.h5", "half")
                .ok());
      },
      [&](FileSystem& fs, const std::string& checkpoints) {
        return SaveState(fs, checkpoints, 2, after, GetParam()).status();
      },
      [&](const std::string& checkpoints, bool succeeded) {
        const auto entries = Entries(checkpoints);
        const CheckpointEntry* newest = FindNewest(entries);
        ASSERT_NE(newest, nullptr);
        EXPECT_TRUE(!succeeded || newest->name.step == 2);
        ExpectHolds(newest->path, newest->name.step == 2 ? after : before);
        for (const auto& entry : entries) EXPECT_NE(entry.state, CheckpointState::kDamaged);
        ExpectHolds(checkpoints + "/step-000000000001", before);
        const auto saved = SaveState(Fs(), checkpoints, 3, next, GetParam());
        ASSERT_TRUE(saved.ok()) << saved.status();
        ExpectHolds(*saved, next);
        for (const auto& entry : Entries(checkpoints)) {
          EXPECT_EQ(entry.state, CheckpointState::kWhole) << entry.path;
        }
      });
}

TEST(CheckpointFaultTest, SavingAStepAgainNeverLeavesItWithout) {
  const TestState before = MakeState(1), after = MakeState(2);
  FailEverywhere(
      [&](const std::string& checkpoints) {
        ASSERT_TRUE(SaveState(Fs(), checkpoints, 1, before, 2).ok());
      },
      [&](FileSystem& fs, const std::string& checkpoints) {
        return SaveState(fs, checkpoints, 1, after, 2).status();
      },
      [&](const std::string& checkpoints, bool succeeded) {
        const auto entries = Entries(checkpoints);
        const CheckpointEntry* newest = FindNewest(entries);
        ASSERT_NE(newest, nullptr);
        EXPECT_TRUE(!succeeded || newest->name.generation == 2);
        ExpectHolds(newest->path, newest->name.generation == 2 ? after : before);
      });
}

TEST(CheckpointFaultTest, APruneThatFailsHalfWayLeavesWholeOnes) {
  const TestState state = MakeState(1);
  FailEverywhere(
      [&](const std::string& checkpoints) {
        for (int step : {1, 2, 3}) ASSERT_TRUE(SaveState(Fs(), checkpoints, step, state, 2).ok());
      },
      [](FileSystem& fs, const std::string& checkpoints) {
        return PruneCheckpoints(fs, checkpoints, {.last = 1}).status();
      },
      [&](const std::string& checkpoints, bool) {
        for (const auto& entry : Entries(checkpoints)) {
          EXPECT_NE(entry.state, CheckpointState::kDamaged);
          if (entry.state == CheckpointState::kWhole) ExpectHolds(entry.path, state);
        }
        ExpectHolds(checkpoints + "/step-000000000003", state);
        ASSERT_TRUE(PruneCheckpoints(Fs(), checkpoints, {.last = 1, .leftovers = true}).ok());
        EXPECT_THAT(Fs().List(checkpoints).value(), ElementsAre("step-000000000003"));
      });
}

// What a power cut may take is only what was not synced: so the order is a promise of its own.
TEST(CheckpointFaultTest, EverythingIsSyncedBeforeItIsReliedOn) {
  const ScratchDirectory scratch;
  const std::string checkpoints = scratch / "run/checkpoints",
                    temporary = checkpoints + "/step-000000000001.tmp";
  FaultyFileSystem faulty(Fault::kNone, 0);
  ASSERT_TRUE(SaveState(faulty, checkpoints, 1, MakeState(1), 2).ok());
  std::vector<std::string> calls = faulty.log();  // several appends in a row count as one
  calls.erase(std::unique(calls.begin(), calls.end()), calls.end());
  const std::string root = ParentDirectory(scratch / "run");
  EXPECT_THAT(calls, ElementsAre("sync directory " + ParentDirectory(root),  // its name's
                                 "mkdir " + root + "/run", "sync directory " + root,
                                 "mkdir " + checkpoints, "sync directory " + root + "/run",
                                 "mkdir " + temporary,                        //
                                 "create " + temporary + "/rank-00000.h5",    //
                                 "append " + temporary + "/rank-00000.h5",    //
                                 "sync " + temporary + "/rank-00000.h5",      //
                                 "close " + temporary + "/rank-00000.h5",     //
                                 "create " + temporary + "/rank-00001.h5",    //
                                 "append " + temporary + "/rank-00001.h5",    //
                                 "sync " + temporary + "/rank-00001.h5",      //
                                 "close " + temporary + "/rank-00001.h5",     //
                                 "create " + temporary + "/manifest.pb.tmp",  //
                                 "append " + temporary + "/manifest.pb.tmp",  //
                                 "sync " + temporary + "/manifest.pb.tmp",    //
                                 "close " + temporary + "/manifest.pb.tmp",   //
                                 "rename " + temporary + "/manifest.pb.tmp",  //
                                 "sync directory " + temporary,               //
                                 "rename " + temporary,                       //
                                 "sync directory " + checkpoints));
}

TEST(CheckpointFaultTest, ARemovedCheckpointHasNoNameBeforeItLosesAFile) {
  const ScratchDirectory scratch;
  const std::string directory = SaveState(Fs(), scratch / "run", 1, MakeState(1), 2).value();
  FaultyFileSystem faulty(Fault::kNone, 0);
  ASSERT_TRUE(RemoveCheckpoint(faulty, directory).ok());
  EXPECT_THAT(
      faulty.log(),
      ElementsAre("rename " + directory, "sync directory " + (scratch / "run"),
                  "remove " + directory + ".tmp/manifest.pb",
                  "remove " + directory + ".tmp/rank-00000.h5",
                  "remove " + directory + ".tmp/rank-00001.h5", "rmdir " + directory + ".tmp"));
}

// Nor does what a save finds there keep it from its work.
TEST(CheckpointFaultTest, OddEntriesAreInNoSavesWay) {
  const ScratchDirectory scratch;
  const std::string checkpoints = scratch / "run";
  ASSERT_TRUE(SaveState(Fs(), checkpoints, 1, MakeState(1), 2).ok());
  for (const char* name : {"/step-000000000002", "/step-000000000003.tmp"}) {
    ASSERT_TRUE(WriteFileAtomically(Fs(), checkpoints + name, "a file").ok());
  }
  ASSERT_TRUE(Fs().MakeDirectories(checkpoints + "/step-000000000004.tmp/rank-00000.h5").ok());
  for (const int step : {2, 3, 4}) {
    const auto saved = SaveState(Fs(), checkpoints, step, MakeState(step), 2);
    ASSERT_TRUE(saved.ok()) << saved.status();
    ExpectHolds(*saved, MakeState(step));
  }
  const auto entries = Entries(checkpoints);
  ASSERT_EQ(entries.size(), 5u);  // with the leftover that cannot be removed
  EXPECT_EQ(FindNewest(entries)->name.step, 4);
}

TEST(CheckpointDirectoryTest, NamesAreReadAsTheyAreWritten) {
  for (const char* text :
       {"step-000000000000", "step-000000000123", "step-1234567890123", "step-000000000123.tmp",
        "step-000000000123.2", "step-000000000123.17.tmp"}) {
    const auto name = ParseCheckpointName(text);
    ASSERT_TRUE(name.has_value()) << text;
    EXPECT_EQ(ToString(*name), text);
  }
  for (const char* text :
       {"", "step-", "step-123", "step-00000000012x", "step-000000000123.1", "step-000000000123.",
        "step-000000000123.02", "step--00000000123", "step-0000000000123", "step-000000000123.bak",
        "step-99999999999999999999", "a-step-000000000123", "step-000000000123.tmp.tmp"}) {
    EXPECT_FALSE(ParseCheckpointName(text).has_value()) << text;
  }
}

TEST(CheckpointDirectoryTest, TheNewestWholeOneIsFound) {
  const ScratchDirectory scratch;
  const std::string checkpoints = scratch / "checkpoints";
  EXPECT_THAT(Entries(checkpoints), IsEmpty());
  for (int step : {900, 1000, 8, 1001}) {
    ASSERT_TRUE(SaveState(Fs(), checkpoints, step, MakeState(step), 2).ok());
  }
  ASSERT_TRUE(Fs().MakeDirectories(checkpoints + "/notes").ok());
  ChangeFile(checkpoints + "/step-000000001001/rank-00001.h5", [](std::string& b) { b += "x"; });
  ASSERT_TRUE(Fs().Remove(checkpoints + "/step-000000000008/manifest.pb").ok());
  ASSERT_TRUE(
      Fs().Rename(checkpoints + "/step-000000000900", checkpoints + "/step-000000002000").ok());
  ASSERT_TRUE(SaveState(Fs(), checkpoints, 900, MakeState(900), 2).ok());
  ASSERT_TRUE(Fs().MakeDirectories(checkpoints + "/step-000000009999.tmp").ok());
  const auto entries = Entries(checkpoints);
  std::vector<std::pair<int64_t, CheckpointState>> found;
  for (const auto& entry : entries) found.emplace_back(entry.name.step, entry.state);
  EXPECT_THAT(found, ElementsAre(std::pair(8, CheckpointState::kDamaged),
                                 std::pair(900, CheckpointState::kWhole),
                                 std::pair(1000, CheckpointState::kWhole),
                                 std::pair(1001, CheckpointState::kDamaged),
                                 std::pair(2000, CheckpointState::kDamaged),
                                 std::pair(9999, CheckpointState::kLeftover)));
  EXPECT_THAT(std::string(entries[0].problem.message()),
              HasSubstr("8: its manifest.pb is missing"));
  EXPECT_THAT(std::string(entries[4].problem.message()), HasSubstr("2000: holds step 900: it was"));
  EXPECT_EQ(FindNewest(entries)->name.step, 1000);
  EXPECT_EQ(FindNewest(entries)->manifest.training().step(), 1000);
  EXPECT_THAT(std::string(entries[3].problem.message()), HasSubstr("1001/rank-00001.h5: has "));
}

TEST(CheckpointDirectoryTest, PruneKeepsTheNewestWholeOnes) {
  const ScratchDirectory scratch;
  const std::string checkpoints = scratch / "checkpoints";
  for (int step : {1, 2, 3, 4, 5}) {
    ASSERT_TRUE(SaveState(Fs(), checkpoints, step, MakeState(step), 2).ok());
  }
  // The newest two are of no use: they count for nothing, and may still be looked at.
  ASSERT_TRUE(Fs().Remove(checkpoints + "/step-000000000005/manifest.pb").ok());
  ASSERT_TRUE(Fs().Remove(checkpoints + "/step-000000000004/rank-00000.h5").ok());
  ASSERT_TRUE(WriteFileAtomically(Fs(), checkpoints + "/step-000000000001/notes", "mine").ok());
  EXPECT_FALSE(PruneCheckpoints(Fs(), checkpoints, {.last = 0}).ok());
  EXPECT_THAT(PruneCheckpoints(Fs(), checkpoints, {.last = 2}).value(),
              ElementsAre(checkpoints + "/step-000000000001"));
  EXPECT_THAT(WholeNames(checkpoints), ElementsAre("step-000000000002", "step-000000000003"));
  EXPECT_THAT(Fs().List(checkpoints).value(),
              ElementsAre("step-000000000001.tmp", "step-000000000002", "step-000000000003",
                          "step-000000000004", "step-000000000005"));
  EXPECT_THAT(Fs().List(checkpoints + "/step-000000000001.tmp").value(), ElementsAre("notes"));
  ASSERT_TRUE(PruneCheckpoints(Fs(), checkpoints, {.last = 1}).ok());
  EXPECT_THAT(WholeNames(checkpoints), ElementsAre("step-000000000003"));
}

// One that cannot be removed does not keep those after it.
TEST(CheckpointDirectoryTest, PruneGoesOnAfterAFailure) {
  const ScratchDirectory scratch;
  const std::string checkpoints = scratch / "checkpoints";
  for (int step : {1, 2, 3}) {
    ASSERT_TRUE(SaveState(Fs(), checkpoints, step, MakeState(step), 1).ok());
  }
  ASSERT_TRUE(Fs().MakeDirectories(checkpoints + "/step-000000000002/rank-00009.h5").ok());
  const auto pruned = PruneCheckpoints(Fs(), checkpoints, {.last = 1});
  EXPECT_THAT(std::string(pruned.status().message()), HasSubstr("rank-00009.h5"));
  EXPECT_THAT(WholeNames(checkpoints), ElementsAre("step-000000000003"));
  EXPECT_FALSE(Fs().Exists(checkpoints + "/step-000000000001"));
}

// What cannot be looked at is not taken for nothing.
TEST(CheckpointDirectoryTest, ALinkThatLeadsNowhereIsAnError) {
  const ScratchDirectory scratch;
  EXPECT_TRUE(ListCheckpoints(Fs(), scratch / "none")->empty());
  std::filesystem::create_directory_symlink(scratch / "unmounted", scratch / "checkpoints");
  const auto entries = ListCheckpoints(Fs(), scratch / "checkpoints");
  EXPECT_THAT(std::string(entries.status().message()), HasSubstr("cannot list "));
}

}  // namespace
}  // namespace mnemo
