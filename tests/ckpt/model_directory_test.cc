#include "src/ckpt/model_directory.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <unistd.h>

#include "src/ckpt/model_source.h"
#include "src/core/config_text.h"
#include "tests/ckpt/disk_model.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using google::protobuf::util::MessageDifferencer;
using testing::HasSubstr;

FileSystem& Fs() { return FileSystem::Posix(); }

ModelDescription Description() {
  ModelDescription description;
  EXPECT_TRUE(ParseConfigText(R"(
      model { block: MAC layers: 2 width: 8 heads: 2 vocabulary: 264 norm_epsilon: 1e-6
              memory { depth: 2 residual: false gates { theta_max: 0.1 alpha_first: 1e-3 } } }
      train { steps: 9007199254740993 sequence_length: 64 seed: 18446744073709551615 }
      data { shards: "12" shards: "a b.h5" document_reset: CHUNK })",
                              "test", &description.config)
                  .ok());
  description.tokenizer = {"sentencepiece", "00ff", 264, 256, std::string("\0model\xff", 7)};
  return description;
}

std::vector<NamedTensor> Tensors(double value) {
  return {{"embedding.weight", Tensor::Full({4, 2}, value, DType::kF32)},
          {"final_norm.weight", Tensor::Full({2}, value, DType::kF32)}};
}

absl::StatusOr<int> Write(FileSystem& fs, const std::string& directory,
                          const ModelDescription& description,
                          const std::vector<NamedTensor>& tensors,
                          int64_t shard_bytes = kDefaultShardBytes) {
  return WriteModelDirectory(fs, directory, description, Streamed(tensors), shard_bytes);
}

absl::StatusOr<std::vector<Tensor>> Read(const std::string& directory,
                                         const std::vector<ExpectedTensor>& expected, DType dtype) {
  const auto source = ModelSource::Open(Fs(), directory);
  if (!source.ok()) return source.status();
  return source->Read(expected, dtype);
}

std::vector<ExpectedTensor> Expected() {
  return {{"final_norm.weight", {2}}, {"embedding.weight", {4, 2}}};
}

double ValueIn(const std::string& directory) {
  const auto tensors = Read(directory, Expected(), DType::kF64);
  return tensors.ok() ? (*tensors)[0].ToDoubles()[0] : -1;
}

TEST(ModelDirectoryTest, AModelComesBackWithItsConfigurationAndTokenizer) {
  const ScratchDirectory scratch;
  const std::string directory = scratch / "run/model/";
  const ModelDescription written = Description();
  ASSERT_TRUE(Write(Fs(), directory, written, Tensors(3)).ok());
  const auto read = ReadModelDescription(Fs(), directory);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(MessageDifferencer::Equals(read->config, written.config))
      << PrintConfigText(read->config);
  EXPECT_EQ(read->tokenizer.kind, "sentencepiece");
  EXPECT_EQ(read->tokenizer.hash, "00ff");
  EXPECT_EQ(read->tokenizer.vocabulary, 264);
  EXPECT_EQ(read->tokenizer.separator, 256);
  EXPECT_EQ(read->tokenizer.model, written.tokenizer.model);
  const auto tensors = Read(directory, Expected(), DType::kF64);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ((*tensors)[0].shape(), Shape({2}));
  EXPECT_EQ((*tensors)[1].ToDoubles(), std::vector<double>(8, 3.0));
  EXPECT_EQ((*tensors)[1].dtype(), DType::kF64);
  EXPECT_THAT(Fs().List(scratch / "run").value(), testing::ElementsAre("model"));
}

TEST(ModelDirectoryTest, AnotherModelIsReplacedWhole) {
  const ScratchDirectory scratch;
  const std::string directory = scratch / "model";
  ASSERT_TRUE(Write(Fs(), directory, Description(), Tensors(1)).ok());
  ModelDescription bytes = Description();
  bytes.tokenizer.kind = "bytes";
  bytes.tokenizer.model.clear();
  // What interrupted attempts leave behind is cleared away.
  ASSERT_TRUE(Fs().MakeDirectories(directory + ".tmp").ok());
  ASSERT_TRUE(WriteFileAtomically(Fs(), directory + ".tmp/config.json.tmp", "half").ok());
  ASSERT_TRUE(Fs().MakeDirectories(directory + ".old").ok());
  ASSERT_TRUE(Write(Fs(), directory, bytes, Tensors(2)).ok());
  EXPECT_EQ(ValueIn(directory), 2);
  EXPECT_THAT(Fs().List(directory).value(),
              testing::ElementsAre("config.json", "model.safetensors"));
  EXPECT_FALSE(Fs().Exists(directory + ".old"));
  EXPECT_FALSE(Fs().Exists(directory + ".tmp"));
}

TEST(ModelDirectoryTest, OtherPeoplesFilesAreNeverRemoved) {
  const ScratchDirectory scratch;
  const std::string directory = scratch / "model";
  ASSERT_TRUE(Write(Fs(), directory, Description(), Tensors(1)).ok());
  ASSERT_TRUE(WriteFileAtomically(Fs(), directory + "/notes.txt", "mine").ok());
  const absl::Status status = Write(Fs(), directory, Description(), Tensors(2)).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("notes.txt, which is not part of a model"));
  EXPECT_EQ(ValueIn(directory), 1);
  EXPECT_TRUE(Fs().Exists(directory + "/notes.txt"));
  EXPECT_FALSE(Fs().Exists(directory + ".tmp"));
}

TEST(ModelDirectoryTest, AnInterruptedReplacementIsExplained) {
  const ScratchDirectory scratch;
  const std::string directory = scratch / "model";
  EXPECT_THAT(std::string(ReadModelDescription(Fs(), directory).status().message()),
              HasSubstr("not a model directory: it has no config.json"));
  ASSERT_TRUE(Write(Fs(), directory + ".old", Description(), Tensors(1)).ok());
  EXPECT_THAT(std::string(ReadModelDescription(Fs(), directory).status().message()),
              HasSubstr("rename " + directory + ".old to " + directory));
}

// A file system whose every call from the n-th on fails as on a full disk.
class FullFileSystem : public FileSystem {
 public:
  explicit FullFileSystem(int good_calls) : left_(good_calls) {}
  int calls() const { return calls_; }

  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    return Fs().ReadFile(path);
  }
  absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) override {
    return Fs().ReadRange(path, offset, out);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    if (Full()) return Error();
    return std::make_unique<File>(*this, Fs().Create(path).value());
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override {
    return Fs().OpenAppend(path);
  }
  absl::StatusOr<int64_t> FileSize(const std::string& path) override { return Fs().FileSize(path); }
  bool Exists(const std::string& path) override { return Fs().Exists(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override {
    return Fs().List(directory);
  }
  absl::Status MakeDirectories(const std::string& path) override {
    return Full() ? Error() : Fs().MakeDirectories(path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return Full() ? Error() : Fs().Rename(from, to);
  }
  absl::Status Remove(const std::string& path) override { return Fs().Remove(path); }
  absl::Status RemoveDirectory(const std::string& path) override {
    return Fs().RemoveDirectory(path);
  }
  absl::Status SyncDirectory(const std::string& path) override {
    return Full() ? Error() : Fs().SyncDirectory(path);
  }

 private:
  class File : public WritableFile {
   public:
    File(FullFileSystem& fs, std::unique_ptr<WritableFile> file)
        : fs_(fs), file_(std::move(file)) {}
    absl::Status Append(std::string_view bytes) override {
      return fs_.Full() ? fs_.Error() : file_->Append(bytes);
    }
    absl::Status Sync() override { return fs_.Full() ? fs_.Error() : file_->Sync(); }
    absl::Status Close() override { return file_->Close(); }

   private:
    FullFileSystem& fs_;
    std::unique_ptr<WritableFile> file_;
  };
  // Only the one call fails, so that what is done about it can be seen.
  bool Full() { return calls_++ == left_; }
  static absl::Status Error() { return absl::ResourceExhaustedError("the disk is full"); }

  int left_;
  int calls_ = 0;
};

TEST(ModelDirectoryTest, AFullDiskLosesNothing) {
  for (const int64_t shard_bytes : {int64_t{8}, kDefaultShardBytes}) {
    FullFileSystem counting(-1);
    const ScratchDirectory scratch;
    const std::string directory = scratch / "model";
    ASSERT_TRUE(Write(Fs(), directory, Description(), Tensors(1), shard_bytes).ok());
    ASSERT_TRUE(Write(counting, directory, Description(), Tensors(1), shard_bytes).ok());
    ASSERT_GT(counting.calls(), 10);
    for (int call = 0; call < counting.calls(); ++call) {
      FullFileSystem full(call);
      const absl::Status status =
          Write(full, directory, Description(), Tensors(2), shard_bytes).status();
      EXPECT_EQ(std::string(status.message()), "the disk is full") << call;
      const double value = ValueIn(directory);
      // The last call syncs the parent directory, when the new model is in its place.
      EXPECT_EQ(value, call + 1 < counting.calls() ? 1 : 2) << call;
      EXPECT_TRUE(ReadModelDescription(Fs(), directory).ok());
      EXPECT_FALSE(Fs().Exists(directory + ".tmp"));
    }
  }
}

// The value of the whole model in `directory`; 0 if there is no such directory, -1 if it holds
// anything else.
double WholeValueIn(FileSystem& fs, const std::string& directory) {
  if (!fs.Exists(directory)) return 0;
  const auto source = ModelSource::Open(fs, directory);
  if (!source.ok() || !source->Describe().ok()) return -1;
  const auto tensors = source->Read(Expected(), DType::kF64);
  if (!tensors.ok()) return -1;
  const double value = (*tensors)[0].ToDoubles()[0];
  return (*tensors)[1].ToDoubles() == std::vector<double>(8, value) ? value : -1;
}

// At every call of a replacement, by files of another number, that a disk may not come back from.
TEST(ModelDirectoryTest, AfterAPowerCutTheOldOrTheNewModelIsThere) {
  constexpr char kModel[] = "/runs/model";
  for (const auto& [old_bytes, new_bytes] :
       {std::pair(kDefaultShardBytes, int64_t{8}), std::pair(int64_t{8}, kDefaultShardBytes)}) {
    DiskModel disk;
    ASSERT_TRUE(disk.MakeDirectories("/runs").ok());
    ASSERT_TRUE(Write(disk, kModel, Description(), Tensors(1), old_bytes).ok());
    const auto prepared = disk.AfterPowerCut(DiskModel::Left::kEverything, 0);
    prepared->Forget();
    const auto clean = prepared->Copy();
    ASSERT_TRUE(Write(*clean, kModel, Description(), Tensors(2), new_bytes).ok());
    const std::vector<DiskPoint> points = clean->points();
    ASSERT_GT(points.size(), 20u);
    for (const DiskPoint& point : points) {
      SCOPED_TRACE(testing::Message() << point.call << " " << point.path << " #" << point.n);
      const auto dying = prepared->Copy();
      dying->Inject(DiskModel::Fault::kDies, point);
      (void)Write(*dying, kModel, Description(), Tensors(2), new_bytes);
      ASSERT_TRUE(dying->injected());
      for (uint64_t seed = 0; seed < 6; ++seed) {
        const auto left = seed == 0   ? DiskModel::Left::kNothing
                          : seed == 1 ? DiskModel::Left::kEverything
                                      : DiskModel::Left::kSome;
        const auto after = dying->AfterPowerCut(left, seed);
        const double value = WholeValueIn(*after, kModel);
        const double aside = WholeValueIn(*after, std::string(kModel) + ".old");
        ASSERT_TRUE(value == 1 || value == 2 || (value == 0 && aside == 1))
            << value << ", " << aside << ", seed " << seed;
        ASSERT_TRUE(Write(*after, kModel, Description(), Tensors(3), new_bytes).ok());
        ASSERT_EQ(WholeValueIn(*after, kModel), 3);
      }
    }
  }
}

TEST(ModelDirectoryTest, OneInANewPlaceOutlivesAPowerCut) {
  DiskModel disk;
  ASSERT_TRUE(Write(disk, "/new/place/model", Description(), Tensors(1)).ok());
  const auto after = disk.AfterPowerCut(DiskModel::Left::kNothing, 0);
  EXPECT_EQ(WholeValueIn(*after, "/new/place/model"), 1);
}

TEST(ModelDirectoryTest, NothingOfAFormerModelIsLeft) {
  const ScratchDirectory scratch;
  const std::string directory = scratch / "model";
  const auto names = [&] { return Fs().List(directory).value(); };
  EXPECT_EQ(Write(Fs(), directory, Description(), Tensors(1), 8).value(), 2);
  EXPECT_THAT(names(), testing::ElementsAre("config.json", "model-00001-of-00002.safetensors",
                                            "model-00002-of-00002.safetensors",
                                            "model.safetensors.index.json", "tokenizer.model"));
  EXPECT_EQ(ValueIn(directory), 1);
  EXPECT_EQ(Write(Fs(), directory, Description(), Tensors(2)).value(), 1);
  EXPECT_THAT(names(), testing::ElementsAre("config.json", "model.safetensors", "tokenizer.model"));
  EXPECT_EQ(ValueIn(directory), 2);
  EXPECT_EQ(Write(Fs(), directory, Description(), Tensors(3), 39).value(), 2);
  EXPECT_FALSE(Fs().Exists(directory + "/model.safetensors"));
  EXPECT_EQ(ValueIn(directory), 3);
}

TEST(ModelDirectoryTest, AnUnwritableDirectoryIsNamed) {
  const ScratchDirectory scratch;
  ASSERT_TRUE(WriteFileAtomically(Fs(), scratch / "file", "x").ok());
  const absl::Status status =
      Write(Fs(), scratch / "file/model", Description(), Tensors(1)).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("file/model"));
}

TEST(ModelDirectoryTest, TensorsThatDoNotFitAreAllListed) {
  const ScratchDirectory scratch;
  const std::string directory = scratch / "model";
  const int32_t ids[] = {1, 2};
  std::vector<NamedTensor> tensors = Tensors(1);
  tensors.push_back({"extra", Tensor::Zeros({3}, DType::kF32)});
  tensors.push_back({"whole", Tensor::FromHost(std::span<const int32_t>(ids), {2})});
  ASSERT_TRUE(Write(Fs(), directory, Description(), tensors).ok());
  const std::vector<ExpectedTensor> expected = {
      {"embedding.weight", {2, 4}}, {"final_norm.weight", {2}}, {"lost", {7, 9}}, {"whole", {2}}};
  const absl::Status status = Read(directory, expected, DType::kF32).status();
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("4 problems"));
  EXPECT_THAT(message, HasSubstr("embedding.weight has shape [4, 2]; the configuration says"));
  EXPECT_THAT(message, HasSubstr("lost is missing, of shape [7, 9]"));
  EXPECT_THAT(message, HasSubstr("extra [3] is not part of the model"));
  EXPECT_THAT(message, HasSubstr("whole holds integers"));
}

TEST(ModelDirectoryTest, FaultsOfTheConfigurationAreExplained) {
  const std::string good = PrintModelConfig(Description());
  ASSERT_TRUE(ParseModelConfig(good, "config.json").ok());
  EXPECT_THAT(good, HasSubstr("\"steps\": 9007199254740993"));
  EXPECT_THAT(good, HasSubstr("\"clamp\": 0,"));
  const auto error = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const auto parsed = ParseModelConfig(text, "dir/config.json");
    EXPECT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("dir/config.json: "));
    return std::string(parsed.status().message());
  };
  EXPECT_THAT(error("{", ""), HasSubstr("not a JSON object"));
  EXPECT_THAT(error("mnemosyne-model", "llama"), HasSubstr("not a model of this program"));
  EXPECT_THAT(error("\"version\": 1", "\"version\": 2"), HasSubstr("version 2"));
  EXPECT_THAT(error("\"version\": 1", "\"version\": \"1\""), HasSubstr("version \"1\""));
  EXPECT_THAT(error("\"tokenizer\"", "\"tokeniser\""), HasSubstr("there is no tokenizer"));
  EXPECT_THAT(error("\"separator\": 256", "\"separator\": -1"), HasSubstr("tokenizer needs"));
  EXPECT_THAT(error("\"layers\"", "\"layer\""), HasSubstr("layer"));
  EXPECT_THAT(error("\"layers\": 2", "\"layers\": \"two\""), HasSubstr("two"));
}

}  // namespace
}  // namespace mnemo
