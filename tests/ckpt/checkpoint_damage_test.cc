// What is wrong with a checkpoint is found before a byte of it is used, and named.
#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_retention.h"
#include "src/ckpt/manifest.h"
#include "tests/ckpt/checkpoint_test_util.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

FileSystem& Fs() { return FileSystem::Posix(); }

// A stretch of a file: one piece, or what lies between two (the superblock, headers, padding).
struct Region {
  int64_t begin, end;
  bool piece;
};

std::vector<Region> RegionsOf(const v1::CheckpointManifest& manifest, int file) {
  std::vector<Region> pieces;
  for (const auto& tensor : manifest.tensors()) {
    for (const auto& piece : tensor.pieces()) {
      if (piece.file() != file) continue;
      pieces.push_back({piece.byte_offset(), piece.byte_offset() + piece.byte_length(), true});
    }
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const Region& a, const Region& b) { return a.begin < b.begin; });
  std::vector<Region> regions;
  int64_t at = 0;
  for (const Region& piece : pieces) {
    if (at < piece.begin) regions.push_back({at, piece.begin, false});
    regions.push_back(piece);
    at = piece.end;
  }
  if (at < manifest.files(file).bytes())
    regions.push_back({at, manifest.files(file).bytes(), false});
  return regions;
}

class CheckpointDamageTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = SaveState(Fs(), scratch_ / "run", 1, state_, 2, 64).value();
  }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  absl::Status Open() const { return CheckpointReader::Open(Fs(), directory_).status(); }
  // The first error of reading everything.
  absl::Status Load() const {
    const auto reader = CheckpointReader::Open(Fs(), directory_);
    if (!reader.ok()) return reader.status();
    for (const auto& tensor : state_) {
      const auto read = reader->Read(tensor.name);
      if (!read.ok()) return read.status();
      EXPECT_EQ(BytesOf(*read), BytesOf(tensor.value));
    }
    return absl::OkStatus();
  }

  const TestState state_ = MakeState(1);
  const ScratchDirectory scratch_;
  std::string directory_;
};

// The first and the last byte of every region, and every eleventh between.
TEST_F(CheckpointDamageTest, AFlippedBitInAFileIsFoundByVerifyAndInAPieceByLoad) {
  const v1::CheckpointManifest manifest = ReadManifest(Fs(), directory_).value();
  int pieces = 0, in_pieces = 0, outside = 0;
  for (int f = 0; f < manifest.files_size(); ++f) {
    const std::string path = Path(manifest.files(f).path());
    for (const Region& region : RegionsOf(manifest, f)) {
      pieces += region.piece;
      std::set<int64_t> places = {region.end - 1};
      for (int64_t at = region.begin; at < region.end; at += 11) places.insert(at);
      for (const int64_t at : places) {
        const auto flip = [&](std::string& bytes) {
          bytes[at] ^= static_cast<char>(1 << (at % 8));
        };
        ChangeFile(path, flip);
        const auto verified = VerifyCheckpoint(Fs(), directory_);
        ASSERT_TRUE(verified.ok()) << verified.status();
        ASSERT_THAT(verified->problems, ElementsAre(HasSubstr(path))) << at;
        const absl::Status load = Load();
        EXPECT_EQ(load.ok(), !region.piece) << at << " " << load;
        if (region.piece) {
          EXPECT_TRUE(absl::IsDataLoss(load));
          EXPECT_THAT(std::string(load.message()), HasSubstr(path + ": piece "));
          EXPECT_EQ(verified->problems[0], std::string(load.message()));
        } else {
          EXPECT_THAT(verified->problems[0], HasSubstr("is damaged outside of its pieces"));
        }
        ++(region.piece ? in_pieces : outside);
        ChangeFile(path, flip);
      }
    }
  }
  int listed = 0;
  for (const auto& tensor : manifest.tensors()) listed += tensor.pieces_size();
  EXPECT_EQ(pieces, listed);
  EXPECT_GT(in_pieces, 50);
  EXPECT_GT(outside, 50);
  RecordProperty("flips_in_pieces", in_pieces);
  RecordProperty("flips_outside", outside);
  EXPECT_TRUE(Load().ok());
}

TEST_F(CheckpointDamageTest, AFlippedBitOrACutInTheManifestIsFound) {
  const std::string path = Path("manifest.pb"), bytes = Fs().ReadFile(path).value();
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string flipped = bytes;
    flipped[at] ^= static_cast<char>(1 << (at % 8));
    EXPECT_TRUE(absl::IsDataLoss(DecodeManifest(flipped, path).status())) << at;
    const absl::Status cut = DecodeManifest(bytes.substr(0, at), path).status();
    EXPECT_TRUE(absl::IsDataLoss(cut)) << at;
    EXPECT_THAT(std::string(cut.message()), HasSubstr(path + ": does not end as a manifest"));
  }
  ChangeFile(path, [](std::string& content) { content[10] ^= 1; });
  EXPECT_THAT(std::string(Open().message()), HasSubstr(path + ": is damaged"));
  EXPECT_THAT(std::string(VerifyCheckpoint(Fs(), directory_).status().message()),
              HasSubstr(path + ": is damaged"));
}

TEST_F(CheckpointDamageTest, TruncatedMissingAndForeignFiles) {
  const std::string path = Path("rank-00001.h5"), bytes = Fs().ReadFile(path).value();
  for (size_t length : {size_t{0}, size_t{1}, bytes.size() / 2, bytes.size() - 1}) {
    ChangeFile(path, [&](std::string& content) { content.resize(length); });
    EXPECT_THAT(std::string(Open().message()),
                HasSubstr(fmt::format("{}: has {} bytes instead of", path, length)));
    EXPECT_THAT(VerifyCheckpoint(Fs(), directory_)->problems, ElementsAre(HasSubstr(path)));
    ChangeFile(path, [&](std::string& content) { content = bytes; });
  }
  ASSERT_TRUE(Fs().Remove(path).ok());
  EXPECT_THAT(std::string(Open().message()), HasSubstr(path + ": is missing"));
  EXPECT_THAT(VerifyCheckpoint(Fs(), directory_)->problems,
              ElementsAre(HasSubstr(path + ": is missing")));
  // A file of another rank's, stretched to the right length.
  std::string other = Fs().ReadFile(Path("rank-00000.h5")).value();
  other.resize(bytes.size());
  ASSERT_TRUE(WriteFileAtomically(Fs(), path, other).ok());
  EXPECT_THAT(std::string(Load().message()), HasSubstr(path + ": piece"));
  EXPECT_THAT(VerifyCheckpoint(Fs(), directory_)->problems, testing::Not(IsEmpty()));
  ASSERT_TRUE(WriteFileAtomically(Fs(), path, bytes).ok());
  // Nobody's.
  ASSERT_TRUE(WriteFileAtomically(Fs(), Path("notes.txt"), "mine").ok());
  EXPECT_TRUE(Load().ok());
  EXPECT_THAT(VerifyCheckpoint(Fs(), directory_)->problems, IsEmpty());
  EXPECT_THAT(VerifyCheckpoint(Fs(), directory_)->strangers, ElementsAre("notes.txt"));
  ASSERT_TRUE(Fs().Remove(Path("manifest.pb")).ok());
  EXPECT_TRUE(absl::IsNotFound(Open()));
  EXPECT_THAT(std::string(Open().message()),
              HasSubstr(directory_ + " is not a whole checkpoint: it has no manifest.pb"));
}

// Files that are whole in themselves, but in the wrong place.
TEST_F(CheckpointDamageTest, SwappedFilesAreNamed) {
  // Between two checkpoints of one run: same names, same lengths, other bytes.
  const std::string other = SaveState(Fs(), scratch_ / "run", 2, MakeState(2), 2, 64).value();
  for (const char* name : {"rank-00000.h5", "rank-00001.h5"}) {
    const std::string own = Fs().ReadFile(Path(name)).value();
    const std::string foreign = Fs().ReadFile(other + "/" + name).value();
    ASSERT_EQ(own.size(), foreign.size());
    ChangeFile(Path(name), [&](std::string& bytes) { bytes = foreign; });
    EXPECT_TRUE(absl::IsDataLoss(Load()));
    EXPECT_THAT(std::string(Load().message()), HasSubstr(Path(name) + ": piece "));
    EXPECT_THAT(VerifyCheckpoint(Fs(), directory_)->problems,
                testing::AllOf(testing::Not(IsEmpty()), testing::Each(HasSubstr(Path(name)))));
    ChangeFile(Path(name), [&](std::string& bytes) { bytes = own; });
  }
  const std::string own = Fs().ReadFile(Path("manifest.pb")).value();
  const std::string foreign = Fs().ReadFile(other + "/manifest.pb").value();
  ChangeFile(Path("manifest.pb"), [&](std::string& bytes) { bytes = foreign; });
  EXPECT_TRUE(absl::IsDataLoss(Load()));
  EXPECT_THAT(std::string(Load().message()), HasSubstr(directory_ + "/rank-0000"));
  EXPECT_THAT(VerifyCheckpoint(Fs(), directory_)->problems, testing::Not(IsEmpty()));
  ChangeFile(Path("manifest.pb"), [&](std::string& bytes) { bytes = own; });
  // Within one checkpoint.
  const std::string first = Fs().ReadFile(Path("rank-00000.h5")).value();
  const std::string second = Fs().ReadFile(Path("rank-00001.h5")).value();
  ChangeFile(Path("rank-00000.h5"), [&](std::string& bytes) { bytes = second; });
  ChangeFile(Path("rank-00001.h5"), [&](std::string& bytes) { bytes = first; });
  EXPECT_TRUE(absl::IsDataLoss(Load()));
  const auto problems = VerifyCheckpoint(Fs(), directory_)->problems;
  EXPECT_THAT(problems, testing::Contains(HasSubstr(Path("rank-00000.h5"))));
  EXPECT_THAT(problems, testing::Contains(HasSubstr(Path("rank-00001.h5"))));
  ChangeFile(Path("rank-00000.h5"), [&](std::string& bytes) { bytes = first; });
  ChangeFile(Path("rank-00001.h5"), [&](std::string& bytes) { bytes = second; });
  EXPECT_TRUE(Load().ok());
}

TEST_F(CheckpointDamageTest, WhatIsSetAsideIsNeitherUsedNorRemoved) {
  const std::string checkpoints = scratch_ / "run";
  const std::string second = SaveState(Fs(), checkpoints, 2, MakeState(2), 2, 64).value();
  const std::string third = SaveState(Fs(), checkpoints, 3, MakeState(3), 2, 64).value();
  EXPECT_EQ(SetAside(Fs(), third).value(), third + ".damaged");
  EXPECT_TRUE(absl::IsInvalidArgument(SetAside(Fs(), third + ".damaged").status()));
  auto entries = ListCheckpoints(Fs(), checkpoints).value();
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[2].state, CheckpointState::kDamaged);
  EXPECT_THAT(std::string(entries[2].problem.message()), HasSubstr(third + ".damaged: was set"));
  EXPECT_EQ(FindNewest(entries)->path, second);
  EXPECT_EQ(FindNewerDamaged(entries)->path, third + ".damaged");
  EXPECT_EQ(FindCheckpoint(Fs(), checkpoints).value(), second);
  EXPECT_EQ(FindCheckpoint(Fs(), third + ".damaged").value(), third + ".damaged");
  EXPECT_TRUE(VerifyCheckpoint(Fs(), third + ".damaged").ok());
  EXPECT_THAT(PruneCheckpoints(Fs(), checkpoints, {.last = 1}).value(), ElementsAre(directory_));
  ExpectHolds(second, MakeState(2));
  EXPECT_TRUE(Fs().Exists(third + ".damaged"));
  // Saved again, it is replaced.
  EXPECT_EQ(SaveState(Fs(), checkpoints, 3, MakeState(3), 2, 64).value(), third + ".2");
  entries = ListCheckpoints(Fs(), checkpoints).value();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(FindNewerDamaged(entries), nullptr);
  EXPECT_FALSE(ParseCheckpointName("step-000000000003.tmp.damaged"));
}

TEST_F(CheckpointDamageTest, ACopyPutBackReplacesWhatWasSetAside) {
  const std::string aside = SetAside(Fs(), directory_).value();
  std::filesystem::copy(aside, directory_);
  auto entries = ListCheckpoints(Fs(), scratch_ / "run").value();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(FindNewest(entries)->path, directory_);
  EXPECT_EQ(FindNewerDamaged(entries), nullptr);
  // The copy is damaged too.
  EXPECT_EQ(SetAside(Fs(), directory_).value(), directory_ + ".2.damaged");
  entries = ListCheckpoints(Fs(), scratch_ / "run").value();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(FindNewest(entries), nullptr);
}

TEST_F(CheckpointDamageTest, AnotherVersionIsNamed) {
  v1::CheckpointManifest manifest = ReadManifest(Fs(), directory_).value();
  manifest.set_format_version(2);
  manifest.set_writer("mnemo 9");
  ChangeFile(Path("manifest.pb"), [&](std::string& bytes) { bytes = EncodeManifest(manifest); });
  EXPECT_TRUE(absl::IsFailedPrecondition(Open()));
  EXPECT_THAT(std::string(Open().message()),
              HasSubstr("manifest.pb: has format version 2; this program reads version 1. It was "
                        "written by \"mnemo 9\""));
}

// A manifest that is whole, but says what cannot be.
TEST_F(CheckpointDamageTest, EveryRuleOfTheManifestIsChecked) {
  const v1::CheckpointManifest good = ReadManifest(Fs(), directory_).value();
  const auto error = [&](const std::function<void(v1::CheckpointManifest&)>& change) {
    v1::CheckpointManifest manifest = good;
    change(manifest);
    ChangeFile(Path("manifest.pb"), [&](std::string& bytes) { bytes = EncodeManifest(manifest); });
    EXPECT_TRUE(absl::IsDataLoss(Open())) << Open();
    EXPECT_THAT(std::string(Open().message()), testing::StartsWith(Path("manifest.pb: ")));
    return std::string(Open().message());
  };
  using M = v1::CheckpointManifest;
  const auto piece = [](M& m) { return m.mutable_tensors(0)->mutable_pieces(0); };
  for (const char* path :
       {"../rank-00000.h5", "/etc/passwd", "a/b", "..", ".", "", "manifest.pb"}) {
    EXPECT_THAT(error([&](M& m) { m.mutable_files(0)->set_path(path); }),
                HasSubstr(fmt::format("\"{}\" is not a plain name", path)));
  }
  EXPECT_THAT(error([](M& m) { m.mutable_files(0)->set_path(m.files(1).path()); }),
              HasSubstr("rank-00001.h5 is listed twice"));
  EXPECT_THAT(error([](M& m) { m.mutable_files(0)->set_bytes(-1); }), HasSubstr("proper length"));
  EXPECT_THAT(error([](M& m) { m.mutable_files(0)->set_xxh3_128("short"); }),
              HasSubstr("proper length and digest"));
  EXPECT_THAT(error([](M& m) { m.mutable_files(0)->set_bytes(100); }),
              HasSubstr("of rank-00000.h5, which has 100"));
  EXPECT_THAT(error([](M& m) { m.mutable_tensors(0)->set_name(m.tensors(1).name()); }),
              HasSubstr("a tensor has no name, or another one's: \"parameter/layers.0"));
  EXPECT_THAT(error([](M& m) { m.mutable_tensors(0)->clear_name(); }), HasSubstr("has no name"));
  EXPECT_THAT(error([](M& m) { m.mutable_tensors(0)->clear_dtype(); }),
              HasSubstr("tensor parameter/embedding.weight: its dtype 0 is unknown"));
  EXPECT_THAT(error([](M& m) { m.mutable_tensors(0)->set_dtype(v1::TensorDType(77)); }),
              HasSubstr("its dtype 77 is unknown"));
  EXPECT_THAT(error([](M& m) { m.mutable_tensors(0)->mutable_shape()->Resize(9, 1); }),
              HasSubstr("it has 9 dims"));
  EXPECT_THAT(error([](M& m) { m.mutable_tensors(0)->set_shape(0, INT64_MAX); }),
              HasSubstr("is not possible"));
  EXPECT_THAT(error([](M& m) { m.mutable_tensors(0)->set_shape(0, -1); }),
              HasSubstr("its shape [-1, 6] is not possible"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_begin(0, 99); }), HasSubstr("does not lie in"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_begin(0, -1); }), HasSubstr("does not lie in"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_shape(0, 0); }), HasSubstr("does not lie in"));
  EXPECT_THAT(error([&](M& m) { piece(m)->clear_begin(); }), HasSubstr("does not lie in"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_file(2); }), HasSubstr("lies in file 2, of 2"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_file(-1); }), HasSubstr("lies in file -1"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_byte_offset(-64); }), HasSubstr("from byte -64"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_byte_offset(INT64_MAX); }), HasSubstr("from byte"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_byte_length(1); }), HasSubstr("and has 1 from"));
  EXPECT_THAT(error([&](M& m) { piece(m)->set_xxh3_128(""); }), HasSubstr("no proper digest"));
  EXPECT_THAT(error([&](M& m) { m.mutable_tensors(0)->mutable_pieces()->RemoveLast(); }),
              HasSubstr("elements"));
  EXPECT_THAT(error([&](M& m) { *m.mutable_tensors(0)->add_pieces() = *piece(m); }),
              HasSubstr("overlap"));
  EXPECT_THAT(error([&](M& m) {
                piece(m)->set_byte_offset(m.tensors(0).pieces(1).byte_offset());
                piece(m)->set_file(m.tensors(0).pieces(1).file());
              }),
              HasSubstr("two pieces share byte"));
}

}  // namespace
}  // namespace mnemo
