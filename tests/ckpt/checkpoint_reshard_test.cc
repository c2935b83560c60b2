// A checkpoint written anew for other numbers of ranks holds what it held.
#include "src/ckpt/checkpoint_reshard.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "src/ckpt/checkpoint_difference.h"
#include "src/ckpt/checkpoint_directory.h"
#include "src/core/status.h"
#include "tests/ckpt/checkpoint_test_util.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

FileSystem& Fs() { return FileSystem::Posix(); }

class CheckpointReshardTest : public testing::Test {
 protected:
  static CheckpointReader Open(const std::string& directory) {
    return CheckpointReader::Open(Fs(), directory).value();
  }
  absl::StatusOr<std::string> Reshard(int files, const std::string& into,
                                      int64_t piece_bytes = kDefaultPieceBytes) const {
    return ReshardCheckpoint(Fs(), Open(first_), into,
                             {.files = files, .piece_bytes = piece_bytes});
  }

  const ScratchDirectory scratch_;
  const TestState state_ = MakeState(1);
  const std::string run_ = scratch_ / "run",
                    first_ = SaveState(Fs(), run_, 20, state_, 3, 50).value();
};

TEST_F(CheckpointReshardTest, HoldsTheSameInAnyNumberOfFiles) {
  int run = 0;
  constexpr int kRows = 13 + 3 + 13 + 1 + 11;  // of the state: a file has at least one
  for (const int files : {1, 2, 3, 7, 1000}) {
    for (const int64_t piece_bytes : {int64_t{1}, int64_t{100}, kDefaultPieceBytes}) {
      SCOPED_TRACE(files);
      const auto directory = Reshard(files, scratch_ / std::to_string(++run), piece_bytes);
      ASSERT_TRUE(directory.ok()) << directory.status();
      EXPECT_EQ(*directory, scratch_ / std::to_string(run) + "/step-000000000020");
      ExpectHolds(*directory, state_);
      const auto verified = VerifyCheckpoint(Fs(), *directory);
      ASSERT_TRUE(verified.ok()) << verified.status();
      EXPECT_THAT(verified->problems, testing::IsEmpty());
      EXPECT_TRUE(CompareCheckpoints(Open(first_), Open(*directory))->none());
      const CheckpointReader reader = Open(*directory);
      const v1::CheckpointManifest& manifest = reader.manifest();
      EXPECT_EQ(manifest.files_size(), std::min(files, kRows));
      EXPECT_EQ(manifest.training().seed(), uint64_t{1} << 63);
      EXPECT_EQ(manifest.plan().mesh().dp(), 2);
      EXPECT_EQ(manifest.writer(), "mnemo, the tests'");
    }
  }
}

// There and back again, the file is the one that was written.
TEST_F(CheckpointReshardTest, OneFileIsThatOfOneRank) {
  const std::string alone = SaveState(Fs(), scratch_ / "alone", 20, state_, 1).value();
  const auto many = ReshardCheckpoint(Fs(), Open(alone), scratch_ / "many", {.files = 5});
  ASSERT_TRUE(many.ok()) << many.status();
  const auto one = ReshardCheckpoint(Fs(), Open(*many), scratch_ / "one", {.files = 1});
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(Fs().ReadFile(*one + "/rank-00000.h5").value(),
            Fs().ReadFile(alone + "/rank-00000.h5").value());
}

TEST_F(CheckpointReshardTest, FilesAreOfAboutEqualSize) {
  TestState state;
  for (int i = 0; i < 8; ++i) {
    const int64_t rows = i == 3 ? 4000 : 10 * i;
    state.push_back({"x" + std::to_string(i), Tensor::Full({rows, 32}, i, DType::kF32)});
  }
  const std::string uneven = SaveState(Fs(), scratch_ / "uneven", 1, state, 4).value();
  for (const int files : {2, 3, 8}) {
    const auto directory = ReshardCheckpoint(
        Fs(), Open(uneven), scratch_ / ("even" + std::to_string(files)), {.files = files});
    ASSERT_TRUE(directory.ok()) << directory.status();
    ExpectHolds(*directory, state);
    std::vector<int64_t> bytes;
    const CheckpointReader reader = Open(*directory);
    for (const auto& file : reader.manifest().files()) bytes.push_back(file.bytes());
    const auto [least, most] = std::minmax_element(bytes.begin(), bytes.end());
    EXPECT_LT(*most - *least, 8 * 1024) << files;  // a row is 128 bytes; the rest is metadata
  }
}

TEST_F(CheckpointReshardTest, InItsOwnPlaceItReplacesTheOld) {
  ASSERT_TRUE(SaveState(Fs(), run_, 10, MakeState(2), 2).ok());
  const auto directory = Reshard(2, run_);
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_THAT(Fs().List(run_).value(), ElementsAre("step-000000000010", "step-000000000020.2"));
  ExpectHolds(*directory, state_);
  EXPECT_EQ(FindCheckpoint(Fs(), run_).value(), *directory);
}

TEST_F(CheckpointReshardTest, DamageIsNamedAndNothingChanges) {
  std::string damaged;
  ChangeFile(first_ + "/rank-00001.h5", [&](std::string& bytes) {
    bytes.back() ^= 1;
    damaged = bytes;
  });
  const auto directory = Reshard(2, run_);
  EXPECT_TRUE(absl::IsDataLoss(directory.status())) << directory.status();
  EXPECT_THAT(std::string(directory.status().message()), HasSubstr(first_ + "/rank-00001.h5"));
  EXPECT_THAT(Fs().List(run_).value(), ElementsAre("step-000000000020"));
  EXPECT_EQ(Fs().ReadFile(first_ + "/rank-00001.h5").value(), damaged);
}

TEST_F(CheckpointReshardTest, SaysHowFarItIs) {
  std::vector<int64_t> seen;
  const auto note = [&](int64_t bytes) { seen.push_back(bytes); };
  const auto directory =
      ReshardCheckpoint(Fs(), Open(first_), scratch_ / "other", {.files = 2, .on_progress = note});
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  int64_t all = 0;
  for (const TestTensor& tensor : state_) all += tensor.value.bytes();
  EXPECT_EQ(seen.front(), 0);
  EXPECT_EQ(seen.back(), all);
}

TEST_F(CheckpointReshardTest, NoFilesAreRefused) {
  EXPECT_THAT(std::string(Reshard(0, scratch_ / "none").status().message()),
              HasSubstr("at least one file"));
  EXPECT_FALSE(Fs().Exists(scratch_ / "none"));
}

// A value that another place than the memory gives may fail, or be of another kind than it was said
// to be.
TEST_F(CheckpointReshardTest, WhatAValueFailsOfEndsTheWriting) {
  const std::vector<DeferredPiece> pieces = {{"x", {2}, WholeBox({2}), DType::kF32}};
  const auto write = [&](absl::StatusOr<Tensor> value) {
    const std::string temporary = BeginCheckpoint(Fs(), scratch_ / "x", 1).value();
    return WriteCheckpointFile(Fs(), temporary, 0, pieces, [&](size_t) { return value; }).status();
  };
  EXPECT_EQ(write(Tensor::Zeros({2}, DType::kF32)), absl::OkStatus());
  EXPECT_EQ(write(absl::DataLossError("torn")), absl::DataLossError("torn"));
  EXPECT_TRUE(absl::IsInvalidArgument(write(Tensor::Zeros({3}, DType::kF32))));
  EXPECT_TRUE(absl::IsInvalidArgument(write(Tensor::Zeros({2}, DType::kF64))));
}

}  // namespace
}  // namespace mnemo
