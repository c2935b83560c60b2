#include "src/data/loss_file.h"

#include <cmath>

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using testing::HasSubstr;

TEST(LossFileTest, HoldsLossesAndOffsets) {
  const TestDirectory directory;
  const std::string path = directory / "loss.h5";
  auto writer = LossFileWriter::Create(FileSystem::Posix(), path, {0, 3, 4});
  ASSERT_OK(writer.status());
  const float first[] = {1.5f, 2.5f}, second[] = {0.0f, 4.5f};
  const int32_t targets[] = {7, 8}, masked[] = {-1, 3};
  ASSERT_OK((*writer)->Append(first, targets));
  EXPECT_THAT(Failure((*writer)->Finish()), HasSubstr("2 losses of 4"));
  ASSERT_OK((*writer)->Append(second, masked));
  EXPECT_FALSE(FileSystem::Posix().Exists(path));
  ASSERT_OK((*writer)->Finish());
  writer->reset();
  EXPECT_THAT(FileSystem::Posix().List(directory.path()).value(), testing::ElementsAre("loss.h5"));

  auto file = Hdf5File::OpenReadOnly(path);
  ASSERT_OK(file.status());
  const auto losses = file->OpenDataset("loss", Hdf5Type::kFloat32, 1);
  const auto offsets = file->OpenDataset("sequence_offsets", Hdf5Type::kUint64, 1);
  ASSERT_OK(losses.status());
  ASSERT_OK(offsets.status());
  float values[4];
  uint64_t ends[3];
  ASSERT_EQ(losses->rows(), 4);
  ASSERT_OK(losses->Read(0, 4, values));
  ASSERT_OK(offsets->Read(0, 3, ends));
  EXPECT_EQ(values[0], 1.5f);
  EXPECT_EQ(values[1], 2.5f);
  EXPECT_TRUE(std::isnan(values[2]));
  EXPECT_EQ(values[3], 4.5f);
  EXPECT_THAT(ends, testing::ElementsAre(0, 3, 4));
}

TEST(LossFileTest, WhatIsNotFinishedLeavesNothing) {
  const TestDirectory directory;
  WriteText(directory / "loss.h5", "before");
  {
    const auto writer = LossFileWriter::Create(FileSystem::Posix(), directory / "loss.h5", {0, 2});
    ASSERT_OK(writer.status());
  }
  EXPECT_EQ(ReadText(directory / "loss.h5"), "before");
  EXPECT_THAT(FileSystem::Posix().List(directory.path()).value(), testing::ElementsAre("loss.h5"));
  const std::string nowhere = directory / "missing/loss.h5";
  EXPECT_THAT(Failure(LossFileWriter::Create(FileSystem::Posix(), nowhere, {0, 2})),
              HasSubstr(nowhere));
}

TEST(LossFileTest, AFullDiskIsNamedAndTheOldFileStays) {
  const TestDirectory directory;
  const std::string path = directory / "loss.h5";
  WriteText(path, "before");
  constexpr size_t kTokens = size_t{1} << 20;
  absl::Status status;
  {
    const auto writer = LossFileWriter::Create(FileSystem::Posix(), path, {0, kTokens});
    ASSERT_OK(writer.status());
    const FileSizeLimit limit(kTokens);
    status = (*writer)->Append(std::vector<float>(kTokens), std::vector<int32_t>(kTokens));
    if (status.ok()) status = (*writer)->Finish();
  }
  EXPECT_THAT(Failure(status), HasSubstr(path));
  EXPECT_THAT(Failure(status), HasSubstr("File too large"));
  EXPECT_EQ(ReadText(path), "before");
  EXPECT_THAT(FileSystem::Posix().List(directory.path()).value(), testing::ElementsAre("loss.h5"));
}

}  // namespace
}  // namespace mnemo
