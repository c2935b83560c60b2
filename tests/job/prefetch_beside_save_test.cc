// Batches go on coming while a checkpoint is being written: both are HDF5 files, but no save takes
// the library's lock, for which the reading of shards would wait.
#include <condition_variable>
#include <future>
#include <mutex>

#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/checkpoint_writer.h"
#include "src/data/prefetcher.h"
#include "src/data/sample_stream.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

// Holds up the second and later appends, or the syncs, of the ranks' files.
class SlowFileSystem : public FailingFileSystem {
 public:
  explicit SlowFileSystem(bool syncs) : syncs_(syncs) {}

  bool AwaitHeld() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return held_; });
  }
  void GoOn() {
    const std::lock_guard lock(mutex_);
    go_on_ = true;
    changed_.notify_all();
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    auto file = FailingFileSystem::Create(path);
    if (!file.ok() || !path.ends_with(".h5")) return file;
    return std::make_unique<File>(*this, *std::move(file));
  }

 private:
  class File final : public WritableFile {
   public:
    File(SlowFileSystem& fs, std::unique_ptr<WritableFile> file)
        : fs_(fs), file_(std::move(file)) {}
    absl::Status Append(std::string_view bytes) override {
      if (!fs_.syncs_ && ++appends_ > 1) fs_.Hold();
      return file_->Append(bytes);
    }
    absl::Status Sync() override {
      if (fs_.syncs_) fs_.Hold();
      return file_->Sync();
    }
    absl::Status Close() override { return file_->Close(); }

   private:
    SlowFileSystem& fs_;
    std::unique_ptr<WritableFile> file_;
    int appends_ = 0;
  };

  void Hold() {
    std::unique_lock lock(mutex_);
    held_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, std::chrono::seconds(60), [&] { return go_on_; });
  }

  const bool syncs_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false, go_on_ = false;
};

class PrefetchBesideSaveTest : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(HeldIn, PrefetchBesideSaveTest, testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "Sync" : "Append");
});

TEST_P(PrefetchBesideSaveTest, BatchesGoOnComing) {
  const TestDirectory directory;
  WriteShard(directory / "a.h5", RandomDocuments(50, 60, 256, 4), TestTokenizer());
  const std::shared_ptr<const TokenStream> tokens =
      *TokenStream::Open(OpenSet({directory / "a.h5"}), DocumentLayout::kAligned, 8);
  const auto stream = *SampleStream::Create(tokens, {32, 2, 1});
  SlowFileSystem fs(GetParam());
  const std::vector<StatePiece> pieces = {
      WholePiece("parameter/x", Tensor::Full({3 << 20}, 0.5, DType::kF32))};
  v1::CheckpointManifest about;
  about.mutable_training()->set_step(1);
  auto saved = std::async(std::launch::async, [&] {
    return SaveCheckpoint(fs, directory / "checkpoints", pieces, about);
  });
  ASSERT_TRUE(fs.AwaitHeld());
  constexpr int kBatches = 200;
  auto read = std::async(std::launch::async, [&] {
    Prefetcher prefetcher(
        [&](int64_t i) {
          return std::optional(stream->Read({i % 40, 0, 2, 0, 32}));
        },
        2);
    absl::Status status;
    for (int i = 0; i < kBatches && status.ok(); ++i) status = prefetcher.Next().status();
    return status;
  });
  EXPECT_EQ(read.wait_for(std::chrono::seconds(20)), std::future_status::ready)
      << "batches wait for the save";
  EXPECT_EQ(saved.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  fs.GoOn();
  EXPECT_OK(read.get());
  const auto checkpoint = saved.get();
  ASSERT_OK(checkpoint);
  const auto seen = VerifyCheckpoint(FileSystem::Posix(), *checkpoint);
  ASSERT_OK(seen);
  EXPECT_TRUE(seen->problems.empty());
}

}  // namespace
}  // namespace mnemo
