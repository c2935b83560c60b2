#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/job/run_directory.h"
#include "tests/ckpt/checkpoint_test_util.h"
#include "tests/ckpt/scratch_directory.h"
#include "tests/cli/run_mnemo.h"

namespace mnemo {
namespace {

using testing::HasSubstr;
using testing::Not;

FileSystem& Fs() { return FileSystem::Posix(); }

Result RunCkpt(std::vector<std::string> words) {
  words.insert(words.begin(), "ckpt");
  return RunMnemo(words);
}

class CkptCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    for (int step : {10, 20}) {
      ASSERT_TRUE(SaveState(Fs(), checkpoints_, step, MakeState(step), 2).ok());
    }
    ASSERT_TRUE(Fs().MakeDirectories(checkpoints_ + "/step-000000000030.tmp").ok());
  }
  void DamageTheNewest() {
    ChangeFile(newest_ + "/rank-00001.h5", [](std::string& bytes) { bytes.back() ^= 1; });
  }

  const ScratchDirectory scratch_;
  const std::string run_ = scratch_ / "run", checkpoints_ = run_ + "/checkpoints",
                    newest_ = checkpoints_ + "/step-000000000020";
};

TEST_F(CkptCommandTest, ListsARunOrADirectory) {
  for (const std::string& path : {run_, checkpoints_}) {
    const Result outcome = RunCkpt({"ls", path});
    EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("step-000000000010        whole"));
    EXPECT_THAT(outcome.out, HasSubstr("MB in 2 files\n"));
    EXPECT_THAT(outcome.out, HasSubstr("step-000000000030.tmp    leftover"));
    EXPECT_THAT(outcome.out, HasSubstr("was never finished\n"));
  }
  const auto json = nlohmann::json::parse(RunCkpt({"ls", run_, "--json"}).out);
  ASSERT_EQ(json.size(), 3u);
  EXPECT_EQ(json[1]["step"], 20);
  EXPECT_EQ(json[1]["state"], "whole");
  EXPECT_EQ(json[1]["files"], 2);
  EXPECT_EQ(json[2]["state"], "leftover");
  EXPECT_THAT(std::string(json[2]["problem"]), HasSubstr("never finished"));
}

TEST_F(CkptCommandTest, ListsWhatIsDamagedAndWhatIsNotThere) {
  ChangeFile(newest_ + "/manifest.pb", [](std::string& bytes) { bytes[5] ^= 1; });
  const Result outcome = RunCkpt({"ls", run_});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("step-000000000020        damaged   " + newest_ +
                                     "/manifest.pb: is damaged"));
  EXPECT_THAT(RunCkpt({"show", run_}).out, HasSubstr("step-000000000010"));
  ASSERT_TRUE(Fs().MakeDirectories(scratch_ / "empty").ok());
  EXPECT_THAT(RunCkpt({"ls", scratch_ / "empty"}).out, HasSubstr("no checkpoints in "));
  const Result missing = RunCkpt({"ls", scratch_ / "none"});
  EXPECT_EQ(missing.code, kExitError);
  EXPECT_THAT(missing.err, HasSubstr("none does not exist"));
}

TEST_F(CkptCommandTest, ShowsTheNewestOfARun) {
  const Result outcome = RunCkpt({"show", run_});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr(newest_ + "\n"));
  EXPECT_THAT(outcome.out, HasSubstr("format version 1, written 20"));
  EXPECT_THAT(outcome.out, HasSubstr("by mnemo, the tests'"));
  EXPECT_THAT(outcome.out, HasSubstr("step 20: "));
  EXPECT_THAT(outcome.out, HasSubstr("mesh dp 2, sp 0, tp 0"));
  EXPECT_THAT(outcome.out, HasSubstr("parameter: 184 elements in 3 tensors"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("[13, 6]")));
  EXPECT_THAT(RunCkpt({"show", newest_ + "/", "--tensors"}).out, HasSubstr("f64   [13, 6]"));
  EXPECT_THAT(RunCkpt({"show", newest_, "--config"}).out, HasSubstr("steps: 1000"));
  const auto json = nlohmann::json::parse(RunCkpt({"show", newest_, "--json"}).out);
  EXPECT_EQ(json["training"]["step"], 20);
  EXPECT_EQ(json["training"]["seed"], uint64_t{1} << 63);
  EXPECT_EQ(json["files"].size(), 2u);
  EXPECT_EQ(json["tensors"][0]["name"], "parameter/embedding.weight");
  EXPECT_EQ(json["tensors"][0]["shape"], (std::vector<int64_t>{13, 6}));
}

TEST_F(CkptCommandTest, VerifyNamesTheDamage) {
  const Result good = RunCkpt({"verify", run_});
  EXPECT_EQ(good.code, kExitOk) << good.err;
  EXPECT_THAT(good.out, HasSubstr("verified: every digest matches"));
  DamageTheNewest();
  ASSERT_TRUE(WriteFileAtomically(Fs(), newest_ + "/notes", "mine").ok());
  const Result bad = RunCkpt({"verify", newest_});
  EXPECT_EQ(bad.code, kExitError);
  EXPECT_THAT(bad.out, HasSubstr("BAD: " + newest_ + "/rank-00001.h5: piece "));
  EXPECT_THAT(bad.out, HasSubstr("note: " + newest_ + "/notes is not part of"));
  EXPECT_THAT(bad.out, Not(HasSubstr("verified")));
  EXPECT_THAT(bad.err, HasSubstr("is damaged in 1 place;"));
  const Result json = RunCkpt({"verify", newest_, "--json"});
  EXPECT_EQ(json.code, kExitError);
  const auto parsed = nlohmann::json::parse(json.out);
  EXPECT_EQ(parsed["whole"], false);
  EXPECT_EQ(parsed["problems"].size(), 1u);
  EXPECT_EQ(parsed["strangers"][0], "notes");
}

TEST_F(CkptCommandTest, DiffSaysWhatDiffersAndEndsWithOne) {
  const std::string twin = SaveState(Fs(), scratch_ / "twin", 20, MakeState(20), 3, 40).value();
  const Result equal = RunCkpt({"diff", run_, twin});
  EXPECT_EQ(equal.code, 0) << equal.err;
  EXPECT_EQ(equal.out, "equal: 6 tensors, bit by bit\n");
  const std::string older = checkpoints_ + "/step-000000000010";
  const Result different = RunCkpt({"diff", older, newest_});
  EXPECT_EQ(different.code, 1);
  EXPECT_EQ(different.err, "");
  EXPECT_THAT(different.out, HasSubstr("training.step: 10 and 20\n"));
  EXPECT_THAT(different.out, HasSubstr("parameter/embedding.weight "));
  EXPECT_THAT(different.out, HasSubstr(" elements, max |a-b| "));
  const Result json = RunCkpt({"diff", older, newest_, "--json"});
  EXPECT_EQ(json.code, 1);
  const auto parsed = nlohmann::json::parse(json.out);
  EXPECT_EQ(parsed["equal"], false);
  EXPECT_EQ(parsed["training"][0]["second"], "20");
  EXPECT_EQ(parsed["tensors"][0]["name"], "parameter/embedding.weight");
  EXPECT_GT(parsed["tensors"][0]["elements"], 0);
}

// A script must not take what could not be read for what differs.
TEST_F(CkptCommandTest, DiffEndsWithThreeWhereItCannotSay) {
  const std::string twin = SaveState(Fs(), scratch_ / "twin", 20, MakeState(20), 3, 40).value();
  for (const bool reversed : {false, true}) {
    const auto diff = [&](const std::string& other) {
      const Result result =
          reversed ? RunCkpt({"diff", other, twin}) : RunCkpt({"diff", twin, other});
      EXPECT_EQ(result.code, 3) << result.out;
      EXPECT_EQ(result.out, "");
      return result.err;
    };
    EXPECT_THAT(diff(scratch_ / "none"),
                HasSubstr("mnemo: error: " + (scratch_ / "none") + " does not exist"));
    EXPECT_THAT(diff(checkpoints_ + "/step-000000000030.tmp"),
                HasSubstr("is not a whole checkpoint"));
  }
  DamageTheNewest();
  const Result damaged = RunCkpt({"diff", twin, run_, "--json"});
  EXPECT_EQ(damaged.code, 3);
  EXPECT_EQ(damaged.out, "");
  EXPECT_THAT(damaged.err, HasSubstr(newest_ + "/rank-00001.h5: piece "));
  EXPECT_EQ(RunCkpt({"diff", twin}).code, kExitUsage);
}

TEST_F(CkptCommandTest, PruneKeepsTheNewestAndEveryKth) {
  for (int step : {30, 40, 50}) {
    ASSERT_TRUE(SaveState(Fs(), checkpoints_, step, MakeState(step), 1).ok());
  }
  ASSERT_TRUE(Fs().MakeDirectories(checkpoints_ + "/step-000000000060.tmp").ok());
  const std::string fifty = checkpoints_ + "/step-000000000050";
  ChangeFile(fifty + "/manifest.pb", [](std::string& bytes) { bytes[5] ^= 1; });
  const auto steps = [&] {
    std::string all;
    for (const auto& entry : nlohmann::json::parse(RunCkpt({"ls", run_, "--json"}).out)) {
      all += fmt::format("{}{} ", entry["step"].get<int>(), std::string(entry["state"])[0]);
    }
    return all;
  };
  ASSERT_EQ(steps(), "10w 20w 30w 40w 50d 60l ");
  {  // a save may be going on
    const auto lock = RunDirectory::Open(Fs(), run_);
    const Result beside = RunCkpt({"prune", run_, "--keep", "9", "--dry-run"});
    EXPECT_THAT(beside.out, HasSubstr("nothing to remove in "));
  }
  const Result dry = RunCkpt({"prune", run_, "--keep", "1", "--every", "20", "--dry-run"});
  EXPECT_EQ(dry.code, kExitOk) << dry.err;
  EXPECT_EQ(dry.out, fmt::format("would remove {0}/step-000000000060.tmp (leftover, 0.0 MB)\n"
                                 "would remove {0}/step-000000000030 (whole, 0.0 MB)\n"
                                 "would remove {0}/step-000000000010 (whole, 0.0 MB)\n",
                                 checkpoints_));
  EXPECT_EQ(steps(), "10w 20w 30w 40w 50d 60l ");
  EXPECT_THAT(RunCkpt({"prune", run_, "--keep", "1", "--every", "20"}).out, HasSubstr("removed "));
  EXPECT_EQ(steps(), "20w 40w 50d ");
  uintmax_t bytes = 0;  // of the damaged one, whose manifest says nothing, and of step 20
  for (const std::string& directory : {fifty, checkpoints_ + "/step-000000000020"}) {
    for (const auto& file : std::filesystem::directory_iterator(directory)) {
      bytes += file.file_size();
    }
  }
  const auto json =
      nlohmann::json::parse(RunCkpt({"prune", run_, "--keep", "1", "--damaged", "--json"}).out);
  EXPECT_EQ(json["removed"].size(), 2u);
  EXPECT_EQ(json["removed"][0], fifty);
  EXPECT_EQ(json["bytes"], bytes);
  EXPECT_EQ(steps(), "40w ");
  EXPECT_THAT(RunCkpt({"prune", run_, "--keep", "1"}).out, HasSubstr("nothing to remove in "));
  EXPECT_EQ(RunCkpt({"prune", run_}).code, kExitUsage);
  EXPECT_EQ(RunCkpt({"prune", run_, "--keep", "0"}).code, kExitUsage);
  EXPECT_EQ(steps(), "40w ");
}

TEST_F(CkptCommandTest, PruneKeepsTheBestAndItsLossIsShown) {
  v1::CheckpointManifest about = About(30);
  about.mutable_training()->set_evaluation_loss(2.25);
  const StatePiece piece = WholePiece("parameter/x", Tensor::Zeros({3}, DType::kF32));
  ASSERT_TRUE(SaveCheckpoint(Fs(), checkpoints_, {&piece, 1}, about).ok());
  ASSERT_TRUE(SaveState(Fs(), checkpoints_, 40, MakeState(40), 1).ok());
  EXPECT_THAT(RunCkpt({"ls", run_}).out, HasSubstr("1 files, held-out loss 2.2500\n"));
  EXPECT_EQ(nlohmann::json::parse(RunCkpt({"ls", run_, "--json"}).out)[2]["evaluation_loss"], 2.25);
  EXPECT_THAT(RunCkpt({"show", checkpoints_ + "/step-000000000030"}).out,
              HasSubstr(", held-out loss 2.2500"));
  const Result outcome = RunCkpt({"prune", run_, "--keep", "1", "--best", "--json"});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(nlohmann::json::parse(outcome.out)["removed"],
              testing::ElementsAre(newest_, checkpoints_ + "/step-000000000010"));
}

TEST_F(CkptCommandTest, ReshardsInPlaceOrElsewhere) {
  const Result copy = RunCkpt({"reshard", run_, "--files", "5", "--to", scratch_ / "other"});
  EXPECT_EQ(copy.code, kExitOk) << copy.err;
  const std::string there = scratch_ / "other/checkpoints/step-000000000020";
  EXPECT_THAT(copy.out, HasSubstr(there + ": "));
  EXPECT_THAT(copy.out, HasSubstr("MB in 5 files, from 2\n"));
  EXPECT_EQ(RunCkpt({"diff", newest_, there}).out, "equal: 6 tensors, bit by bit\n");
  EXPECT_EQ(RunCkpt({"verify", there}).code, kExitOk);

  const Result outcome = RunCkpt({"reshard", newest_ + "/", "--files", "1", "--json"});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_THAT(json["path"], testing::EndsWith("/run/checkpoints/step-000000000020.2"));
  EXPECT_EQ(json["files"], 1);
  EXPECT_FALSE(Fs().Exists(newest_));
  EXPECT_EQ(RunCkpt({"diff", run_, there}).out, "equal: 6 tensors, bit by bit\n");
}

TEST_F(CkptCommandTest, ReshardRefusesWhatItCannotDo) {
  EXPECT_EQ(RunCkpt({"reshard", run_}).code, kExitUsage);
  EXPECT_EQ(RunCkpt({"reshard", run_, "--files", "0"}).code, kExitUsage);
  {
    const auto lock = RunDirectory::Open(Fs(), run_);
    ASSERT_TRUE(lock.ok()) << lock.status();
    const Result busy = RunCkpt({"reshard", run_, "--files", "1"});
    EXPECT_EQ(busy.code, kExitError);
    EXPECT_THAT(busy.err, HasSubstr("/run is in use: process "));
  }
  // Another run's checkpoints are not to be replaced, nor what is in no run.
  ASSERT_TRUE(SaveState(Fs(), scratch_ / "other/checkpoints", 20, MakeState(9), 1).ok());
  const Result taken = RunCkpt({"reshard", run_, "--files", "1", "--to", scratch_ / "other"});
  EXPECT_EQ(taken.code, kExitError);
  EXPECT_THAT(taken.err, HasSubstr("other holds a run already"));
  ExpectHolds(scratch_ / "other/checkpoints/step-000000000020", MakeState(9));
  std::filesystem::copy(newest_, checkpoints_ + "/best");
  std::filesystem::copy(newest_, scratch_ / "archived");
  for (const std::string& path : {checkpoints_ + "/best", scratch_ / "archived"}) {
    EXPECT_THAT(RunCkpt({"reshard", path, "--files", "1"}).err, HasSubstr("with --to"));
  }
  EXPECT_THAT(RunCkpt({"reshard", checkpoints_ + "/best", "--files", "1", "--to", run_}).err,
              HasSubstr("with --to"));
  EXPECT_EQ(
      RunCkpt({"reshard", scratch_ / "archived", "--files", "1", "--to", scratch_ / "new"}).code,
      kExitOk);
  DamageTheNewest();
  const Result damaged = RunCkpt({"reshard", run_, "--files", "1"});
  EXPECT_EQ(damaged.code, kExitError);
  EXPECT_THAT(damaged.err, HasSubstr(newest_ + "/rank-00001.h5: piece "));
  EXPECT_EQ(RunCkpt({"show", run_}).code, kExitOk);
}

TEST_F(CkptCommandTest, SaysWhereThereIsNone) {
  const Result leftover = RunCkpt({"show", checkpoints_ + "/step-000000000030.tmp"});
  EXPECT_EQ(leftover.code, kExitError);
  EXPECT_THAT(leftover.err, HasSubstr("step-000000000030.tmp is not a whole checkpoint"));
  for (const char* name : {"/step-000000000010/manifest.pb", "/step-000000000020/rank-00000.h5"}) {
    ASSERT_TRUE(Fs().Remove(checkpoints_ + name).ok());
  }
  const Result outcome = RunCkpt({"show", run_});
  EXPECT_EQ(outcome.code, kExitError);
  EXPECT_THAT(outcome.err, HasSubstr(checkpoints_ + " holds no whole checkpoint"));
  EXPECT_THAT(outcome.err, HasSubstr(newest_ + "/rank-00000.h5: is missing"));
}

}  // namespace
}  // namespace mnemo
