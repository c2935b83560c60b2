// A run that stops anywhere and is started again ends with the same bytes.
#include <fmt/format.h>

#include <filesystem>

#include "src/data/prepare_manifest.h"
#include "tests/data/prepare_test_util.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PrepareResume : public testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 60; ++i) {
      WriteText(directory_ / fmt::format("in/{:02d}.txt", i),
                i % 7 == 0 ? "" : std::string(1000 + 150 * i, static_cast<char>('a' + i % 26)));
    }
    ASSERT_OK(Run("whole"));
    whole_ = Snapshot(directory_ / "whole");
  }
  PrepareOptions Options(const std::string& out) {
    PrepareOptions options;
    options.input.paths = {directory_ / "in"};
    options.shard_bytes = 40000;
    options.holdout = 0.3;
    options.threads = 2;
    options.out = directory_ / out;
    return options;
  }
  absl::StatusOr<PrepareSummary> Run(const std::string& out) { return RunPrepare(Options(out)); }
  // Runs until `appends` pieces of files have been written, then the disk is full.
  absl::Status RunInto(const std::string& out, int64_t appends) {
    FailingFileSystem fs;
    fs.appends_left = appends;
    return Prepare(fs, Options(out)).status();
  }
  TestDirectory directory_;
  std::string whole_;
};

TEST_F(PrepareResume, GoesOnFromAnyPoint) {
  int stops = 0, went_on = 0;
  for (int64_t appends = 0;; ++appends) {
    const std::string out = fmt::format("stop{}", appends);
    const absl::Status status = RunInto(out, appends);
    if (status.ok()) break;
    ++stops;
    EXPECT_THAT(std::string(status.message()), HasSubstr("disk full"));
    // What is finished is whole, and no half shard is left under a shard's name.
    const auto manifest =
        PrepareManifest::Load(FileSystem::Posix(), directory_ / out).value_or(std::nullopt);
    const size_t finished =
        manifest ? manifest->splits[0].shards.size() + manifest->splits[1].shards.size() : 0;
    const auto summary = Run(out);
    ASSERT_OK(summary);
    EXPECT_EQ(summary->resumed_shards, static_cast<int64_t>(finished));
    if (finished > 0) ++went_on;
    ASSERT_EQ(Snapshot(directory_ / out), whole_) << "after " << appends;
  }
  EXPECT_GT(stops, 10);
  EXPECT_GT(went_on, 5);
}

TEST_F(PrepareResume, AFinishedRunIsDoneAtOnce) {
  const auto summary = Run("whole");
  ASSERT_OK(summary);
  EXPECT_EQ(summary->bytes, 0);
  EXPECT_EQ(summary->resumed_shards, summary->shards[0] + summary->shards[1]);
  EXPECT_EQ(Snapshot(directory_ / "whole"), whole_);
}

// Finished data is not given out for that of another input.
TEST_F(PrepareResume, AFinishedRunRefusesAnInputThatChanged) {
  const auto refusal = [&] { return Failure(Run("whole")); };
  const std::string text = ReadText(directory_ / "in/02.txt");
  WriteText(directory_ / "in/02.txt", text + "more");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("in/02.txt has changed"), HasSubstr("--overwrite")));
  // As long as before.
  std::string other = text;
  other[0] ^= 1;
  WriteText(directory_ / "in/02.txt", other);
  std::filesystem::last_write_time(directory_ / "in/02.txt", std::filesystem::file_time_type());
  EXPECT_THAT(refusal(), HasSubstr("in/02.txt has changed"));
  WriteText(directory_ / "in/02.txt", text);
  WriteText(directory_ / "in/99.txt", "new");
  EXPECT_THAT(refusal(), HasSubstr("in/99.txt is new"));
  std::filesystem::rename(directory_ / "in/99.txt", directory_ / "in/.hidden");
  std::filesystem::rename(directory_ / "in/59.txt", directory_ / "59.txt");
  EXPECT_THAT(refusal(), HasSubstr("in/59.txt is gone"));
  EXPECT_EQ(Snapshot(directory_ / "whole"), whole_);
  PrepareOptions options = Options("whole");
  options.overwrite = true;
  ASSERT_OK(RunPrepare(options));
  EXPECT_NE(Snapshot(directory_ / "whole"), whole_);
}

// Files that were copied or touched are the same input if their text is.
TEST_F(PrepareResume, AFinishedRunReadsWhatMayHaveChanged) {
  std::filesystem::last_write_time(directory_ / "in/02.txt", std::filesystem::file_time_type());
  WriteText(directory_ / "in/zz.txt", "");
  auto summary = Run("whole");
  ASSERT_OK(summary);
  EXPECT_GT(summary->bytes, 0);
  summary = Run("whole");
  ASSERT_OK(summary);
  EXPECT_EQ(summary->bytes, 0) << "the new time is not known";
}

// A shard that was renamed into place, but whose manifest entry was lost, is written again.
TEST_F(PrepareResume, AShardTheManifestDoesNotKnowIsReplaced) {
  std::filesystem::copy(directory_ / "whole", directory_ / "lost");
  auto manifest = *PrepareManifest::Load(FileSystem::Posix(), directory_ / "lost");
  manifest->complete = false;
  manifest->splits[0] = {};
  ASSERT_OK(manifest->Save(FileSystem::Posix(), directory_ / "lost"));
  ASSERT_OK(Run("lost"));
  EXPECT_EQ(Snapshot(directory_ / "lost"), whole_);
}

TEST_F(PrepareResume, RefusesAnInputThatChanged) {
  for (int64_t appends = 0;; ++appends) {
    ASSERT_FALSE(RunInto("stop", appends).ok());
    const auto manifest =
        PrepareManifest::Load(FileSystem::Posix(), directory_ / "stop").value_or(std::nullopt);
    if (manifest && !manifest->splits[0].shards.empty()) break;
  }
  WriteText(directory_ / "in/02.txt", "changed");
  EXPECT_THAT(Failure(Run("stop")), AllOf(HasSubstr("the input is not the text that the finished"),
                                          HasSubstr("in/02.txt has changed")));
  std::filesystem::remove_all(directory_ / "in");
  WriteText(directory_ / "in/01.txt", "short");
  EXPECT_THAT(Failure(Run("stop")), HasSubstr("the input is not the text that the finished"));
  PrepareOptions options = Options("stop");
  options.holdout = 0;
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("(holdout was 0.3 and is 0.0)"));
  options.overwrite = true;
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining), testing::ElementsAre("short"));
}

TEST_F(PrepareResume, UnfinishedDataIsNotTrainedOn) {
  std::filesystem::copy(directory_ / "whole", directory_ / "part");
  auto manifest = *PrepareManifest::Load(FileSystem::Posix(), directory_ / "part");
  manifest->complete = false;
  ASSERT_OK(manifest->Save(FileSystem::Posix(), directory_ / "part"));
  EXPECT_THAT(Failure(ResolveShards({directory_ / "part"}, ShardRole::kTraining)),
              HasSubstr("preparing this data has not finished"));
  std::filesystem::remove(directory_ / "whole/train-00001.h5");
  EXPECT_THAT(Failure(ResolveShards({directory_ / "whole"}, ShardRole::kTraining)),
              HasSubstr("shard train-00001.h5 is missing"));
  EXPECT_THAT(Failure(Run("whole")), HasSubstr("lacks train-00001.h5, which was finished"));
}

}  // namespace
}  // namespace mnemo
