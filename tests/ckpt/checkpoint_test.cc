// Saving and loading without faults.
#include <gmock/gmock.h>

#include <algorithm>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/manifest.h"
#include "src/core/digest.h"
#include "src/core/status.h"
#include "tests/ckpt/checkpoint_test_util.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

FileSystem& Fs() { return FileSystem::Posix(); }

TEST(CheckpointTest, ComesBackBitByBitFromAnyNumberOfRanks) {
  const ScratchDirectory scratch;
  const TestState state = MakeState(1);
  int64_t step = 0;
  for (int ranks : {1, 2, 4, 7}) {
    for (int64_t piece_bytes : {int64_t{1}, int64_t{100}, kDefaultPieceBytes}) {
      const auto directory = SaveState(Fs(), scratch / "run", ++step, state, ranks, piece_bytes);
      ASSERT_TRUE(directory.ok()) << directory.status();
      ExpectHolds(*directory, state);
      const auto verified = VerifyCheckpoint(Fs(), *directory);
      ASSERT_TRUE(verified.ok()) << verified.status();
      EXPECT_THAT(verified->problems, testing::IsEmpty());
      EXPECT_THAT(verified->strangers, testing::IsEmpty());
      const auto reader = CheckpointReader::Open(Fs(), *directory);
      EXPECT_EQ(verified->bytes, CheckpointBytes(reader->manifest()));
    }
  }
}

TEST(CheckpointTest, KeepsWhatTheTrainerSays) {
  const ScratchDirectory scratch;
  const auto directory = SaveState(Fs(), scratch / "run", 42, MakeState(1), 4);
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ(*directory, scratch / "run/step-000000000042");
  EXPECT_THAT(Fs().List(*directory).value(),
              ElementsAre("manifest.pb", "rank-00000.h5", "rank-00001.h5", "rank-00002.h5",
                          "rank-00003.h5"));
  const auto reader = CheckpointReader::Open(Fs(), *directory);
  const v1::CheckpointManifest& manifest = reader->manifest();
  EXPECT_EQ(manifest.format_version(), 1);
  EXPECT_EQ(manifest.training().step(), 42);
  EXPECT_EQ(manifest.training().seed(), uint64_t{1} << 63);
  EXPECT_EQ(manifest.config().train().steps(), 1000);
  EXPECT_EQ(manifest.plan().mesh().dp(), 2);
  EXPECT_EQ(manifest.tokenizer().kind(), "bytes");
  EXPECT_GT(manifest.created_unix_seconds(), 1'700'000'000);
  EXPECT_EQ(manifest.files(3).rank(), 3);
}

// A tensor that four ranks wrote, read as any other mesh would cut it.
TEST(CheckpointTest, AnyBoxCanBeRead) {
  const ScratchDirectory scratch;
  const TestState state = MakeState(2);
  const auto directory = SaveState(Fs(), scratch / "run", 1, state, 4, 50);
  const auto reader = CheckpointReader::Open(Fs(), *directory);
  ASSERT_TRUE(reader.ok()) << reader.status();
  int boxes = 0;
  for (const auto& [name, value] : state) {
    if (value.rank() != 2) continue;
    for (int64_t row = 0; row <= value.dim(0); ++row) {
      for (int64_t column = 0; column < value.dim(1); ++column) {
        for (int64_t rows : {int64_t{0}, int64_t{1}, value.dim(0) / 2, value.dim(0) - row}) {
          const Box box{{row, column}, {rows, value.dim(1) - column}};
          if (!LiesIn(box, value.shape())) continue;
          const auto part = reader->ReadBox(name, box);
          ASSERT_TRUE(part.ok()) << part.status();
          const Tensor wanted = value.Slice(0, row, row + rows).Slice(1, column, value.dim(1));
          EXPECT_EQ(part->shape(), box.shape);
          EXPECT_EQ(BytesOf(*part), BytesOf(wanted)) << name << " " << ToString(box);
          ++boxes;
        }
      }
    }
  }
  EXPECT_GT(boxes, 300);
  EXPECT_TRUE(absl::IsNotFound(reader->Read("parameter/none").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(reader->ReadBox("parameter/scale", {{0}, {1}}).status()));
  EXPECT_THAT(std::string(reader->ReadBox("carry/0/tokens", {{5}, {7}}).status().message()),
              HasSubstr("tensor carry/0/tokens does not lie in its shape [11]"));
}

TEST(CheckpointTest, BoxesAreReadIntoWhatTakesThem) {
  const ScratchDirectory scratch;
  const TestState state = MakeState(2);
  const auto directory = SaveState(Fs(), scratch / "run", 1, state, 3);
  ASSERT_TRUE(directory.ok()) << directory.status();
  const auto reader = CheckpointReader::Open(Fs(), *directory);
  ASSERT_TRUE(reader.ok()) << reader.status();
  for (const TestTensor& tensor : state) {
    const Shape& shape = tensor.value.shape();
    const Box whole{Shape(shape.size(), 0), shape};
    const Tensor out = Tensor::Full(shape, 9, tensor.value.dtype());
    ASSERT_TRUE(reader->ReadBoxInto(tensor.name, whole, out).ok()) << tensor.name;
    EXPECT_EQ(BytesOf(out), BytesOf(tensor.value.Contiguous())) << tensor.name;
    const DType other = out.dtype() == DType::kF64 ? DType::kF32 : DType::kF64;
    EXPECT_TRUE(absl::IsInvalidArgument(
        reader->ReadBoxInto(tensor.name, whole, Tensor::Empty(shape, other))));
    EXPECT_TRUE(absl::IsInvalidArgument(
        reader->ReadBoxInto(tensor.name, whole, Tensor::Empty({99}, out.dtype()))));
  }
}

// Counts the bytes read from the ranks' files.
class CountingFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    return Fs().ReadFile(path);
  }
  absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) override {
    bytes_ += static_cast<int64_t>(out.size());
    largest_ = std::max(largest_, static_cast<int64_t>(out.size()));
    return Fs().ReadRange(path, offset, out);
  }
  absl::StatusOr<int64_t> FileSize(const std::string& path) override { return Fs().FileSize(path); }
  bool Exists(const std::string& path) override { return Fs().Exists(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    return Fs().List(path);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string&) override { return No(); }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string&) override {
    return No();
  }
  absl::Status MakeDirectories(const std::string&) override { return No(); }
  absl::Status Rename(const std::string&, const std::string&) override { return No(); }
  absl::Status Remove(const std::string&) override { return No(); }
  absl::Status RemoveDirectory(const std::string&) override { return No(); }
  absl::Status SyncDirectory(const std::string&) override { return No(); }

  int64_t bytes_ = 0, largest_ = 0;

 private:
  static absl::Status No() { return absl::PermissionDeniedError("reading must not write"); }
};

TEST(CheckpointTest, OnlyThePiecesNeededAreRead) {
  const ScratchDirectory scratch;
  const Tensor value = Tensor::Full({64, 16}, 0.5, DType::kF32);
  const std::vector<StatePiece> pieces = {WholePiece("parameter/x", value)};
  const std::string temporary = BeginCheckpoint(Fs(), scratch / "run", 1).value();
  const auto fragment = WriteCheckpointFile(Fs(), temporary, 0, pieces, 256);  // of 4 rows
  const auto directory = CommitCheckpoint(Fs(), temporary, {&*fragment, 1}, About(1));
  ASSERT_TRUE(directory.ok()) << directory.status();
  CountingFileSystem counting;
  const auto reader = CheckpointReader::Open(counting, *directory);
  ASSERT_TRUE(reader.ok()) << reader.status();
  counting.bytes_ = 0;
  ASSERT_TRUE(reader->ReadBox("parameter/x", {{6, 0}, {3, 16}}).ok());
  EXPECT_EQ(counting.bytes_, 2 * 256);  // rows 4 to 11
  EXPECT_EQ(counting.largest_, 256);
  counting.bytes_ = 0;
  ASSERT_TRUE(VerifyCheckpoint(counting, *directory).ok());
  EXPECT_EQ(counting.bytes_, CheckpointBytes(reader->manifest()));
}

TEST(CheckpointTest, StridedTensorsAreWrittenAsTheyRead) {
  const ScratchDirectory scratch;
  const Tensor value = MakeState(3)[0].value.Transpose();
  const std::vector<StatePiece> pieces = {WholePiece("x", value)};
  const auto directory = SaveCheckpoint(Fs(), scratch / "run", pieces, About(1));
  ASSERT_TRUE(directory.ok()) << directory.status();
  ExpectHolds(*directory, {{"x", value}});
}

TEST(CheckpointTest, AStateWithoutTensorsHasNoFiles) {
  const ScratchDirectory scratch;
  const auto directory = SaveCheckpoint(Fs(), scratch / "run", {}, About(1));
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_THAT(Fs().List(*directory).value(), ElementsAre("manifest.pb"));
  ExpectHolds(*directory, {});
}

TEST(CheckpointTest, EqualStatesGiveEqualFiles) {
  const ScratchDirectory scratch;
  const std::string a = SaveState(Fs(), scratch / "a", 1, MakeState(5), 2).value();
  const std::string b = SaveState(Fs(), scratch / "b", 1, MakeState(5), 2).value();
  for (const char* file : {"/rank-00000.h5", "/rank-00001.h5"}) {
    EXPECT_EQ(Fs().ReadFile(a + file).value(), Fs().ReadFile(b + file).value());
  }
}

TEST(CheckpointTest, WrongPiecesAreRefused) {
  const ScratchDirectory scratch;
  const Tensor x = Tensor::Zeros({2, 3}, DType::kF32);
  const auto error = [&](const std::vector<StatePiece>& pieces) {
    const auto saved = SaveCheckpoint(Fs(), scratch / "run", pieces, About(1));
    EXPECT_TRUE(absl::IsInvalidArgument(saved.status())) << saved.status();
    EXPECT_THAT(Fs().List(scratch / "run").value(), testing::IsEmpty());
    return std::string(saved.status().message());
  };
  EXPECT_THAT(error({WholePiece("", x)}), HasSubstr("cannot be named \"\""));
  EXPECT_THAT(error({WholePiece("a b", x)}), HasSubstr("cannot be named \"a b\""));
  EXPECT_THAT(error({WholePiece("a@0", x)}), HasSubstr("cannot be named \"a@0\""));
  EXPECT_THAT(error({WholePiece("a//b", x)}), HasSubstr("has an empty part"));
  EXPECT_THAT(error({WholePiece(std::string(1025, 'a'), x)}), HasSubstr("longer than 1024"));
  EXPECT_THAT(error({WholePiece("a", x), WholePiece("a", x)}), HasSubstr("named \"a\""));
  EXPECT_THAT(error({WholePiece("a", x), WholePiece("a/b", x)}), HasSubstr("group"));
  EXPECT_THAT(error({WholePiece("a/b", x), WholePiece("a", x)}), HasSubstr("group"));
  EXPECT_THAT(error({{"a", {2, 4}, {0, 2}, x}}), HasSubstr("lie in the shape [2, 4]"));
  EXPECT_THAT(error({{"a", {2, 4}, {0, 0}, x}}), HasSubstr("no piece holds 2 of its 8 elements"));
  EXPECT_THAT(error({{"a", {2, 4}, {0, 0}, x}, {"a", {2, 4}, {0, 1}, x}}), HasSubstr("overlap"));
  EXPECT_THAT(error({{"a", {4, 3}, {0, 0}, x}, {"a", {5, 3}, {2, 0}, x}}), HasSubstr("differ"));
  EXPECT_THAT(error({{"a", {2, 3}, {0, 0}, Tensor()}}), HasSubstr("piece of a"));
}

TEST(CheckpointTest, RanksMustAgree) {
  const ScratchDirectory scratch;
  const std::string temporary = BeginCheckpoint(Fs(), scratch / "run", 7).value();
  const std::vector<StatePiece> upper = {{"a", {4}, {0}, Tensor::Zeros({2}, DType::kF32)}},
                                lower = {{"a", {4}, {2}, Tensor::Zeros({2}, DType::kF64)}};
  const std::vector<v1::CheckpointFragment> fragments = {
      WriteCheckpointFile(Fs(), temporary, 0, upper).value(),
      WriteCheckpointFile(Fs(), temporary, 1, lower).value()};
  const auto error = [&](std::span<const v1::CheckpointFragment> given, int64_t step) {
    return std::string(CommitCheckpoint(Fs(), temporary, given, About(step)).status().message());
  };
  EXPECT_THAT(error(fragments, 7), HasSubstr("ranks disagree about the dtype or shape of a"));
  EXPECT_THAT(error({fragments.data(), 1}, 7), HasSubstr("no piece holds 2 of its 4 elements"));
  EXPECT_THAT(error({fragments.data(), 1}, 8), HasSubstr("begun for step 7, not 8"));
  const std::vector<v1::CheckpointFragment> twice = {fragments[0], fragments[0]};
  EXPECT_THAT(error(twice, 7), HasSubstr("listed twice"));
  ASSERT_TRUE(Fs().Remove(temporary + "/rank-00001.h5").ok());
  const std::vector<v1::CheckpointFragment> other = {
      WriteCheckpointFile(Fs(), temporary, 0, upper).value(),
      WriteCheckpointFile(Fs(), temporary, 1,
                          std::vector<StatePiece>{{"a", {4}, {2}, Tensor::Zeros({2}, DType::kF32)}})
          .value()};
  ASSERT_TRUE(Fs().Remove(temporary + "/rank-00001.h5").ok());
  EXPECT_THAT(error(other, 7), HasSubstr("rank-00001.h5: is missing"));
  EXPECT_THAT(error(other, 7), HasSubstr("one shared file system"));
  AbandonCheckpoint(Fs(), temporary);
  EXPECT_THAT(Fs().List(scratch / "run").value(), testing::IsEmpty());
}

// docs/checkpoint_format.md, "A worked example". Bytes that change are another format version.
TEST(CheckpointTest, TheFormatIsThatOfTheDocumentation) {
  const ScratchDirectory scratch;
  const float values[] = {0, 1, 2, 3, 4, 5, 6, 7};
  const Tensor x = Tensor::FromHost(std::span<const float>(values), {4, 2}, DType::kF32);
  const std::string temporary = BeginCheckpoint(Fs(), scratch / "run", 3).value();
  const std::vector<StatePiece> first = {
      {"parameter/x", {4, 2}, {0, 0}, x.Slice(0, 0, 3)},
      WholePiece("parameter/s", Tensor::Full({}, 0.5, DType::kBF16))};
  const std::vector<StatePiece> second = {{"parameter/x", {4, 2}, {3, 0}, x.Slice(0, 3, 4)}};
  const std::vector<v1::CheckpointFragment> fragments = {
      WriteCheckpointFile(Fs(), temporary, 0, first).value(),
      WriteCheckpointFile(Fs(), temporary, 1, second).value()};
  const auto directory = CommitCheckpoint(Fs(), temporary, fragments, About(3));
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ(DigestOf(Fs().ReadFile(*directory + "/rank-00000.h5").value()).Hex(),
            "39610f40fe0b5ecdb01ada21204bcfbb");
  EXPECT_EQ(DigestOf(Fs().ReadFile(*directory + "/rank-00001.h5").value()).Hex(),
            "f27d3270cb6c79140c9fbbc0809dd504");
  const v1::CheckpointManifest manifest = ReadManifest(Fs(), *directory).value();
  const v1::CheckpointPiece& piece = manifest.tensors(0).pieces(1);
  EXPECT_EQ(piece.file(), 1);
  EXPECT_EQ(piece.byte_offset(), 576);
  EXPECT_EQ(piece.byte_length(), 8);
  const std::string digest = piece.xxh3_128();
  EXPECT_EQ(digest,
            std::string("\x55\x12\xf2\x6f\x25\xd2\xe3\xf9\xce\x79\x75\x73\x77\x7e\xf1\x06"));
  const std::string bytes = Fs().ReadFile(*directory + "/manifest.pb").value();
  EXPECT_EQ(bytes.substr(bytes.size() - 24, 8), "mnemckpt");
  EXPECT_EQ(bytes.substr(bytes.size() - 16), ToBytes(DigestOf(bytes.substr(0, bytes.size() - 16))));
}

}  // namespace
}  // namespace mnemo
