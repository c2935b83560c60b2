#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/data/hdf5.h"
#include "src/data/shard_reader.h"
#include "src/data/shard_writer.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> Flat(const Documents& documents, int32_t separator) {
  std::vector<int32_t> all;
  for (const auto& document : documents) {
    all.insert(all.end(), document.begin(), document.end());
    all.push_back(separator);
  }
  return all;
}

// Shards are read without HDF5's lock: from where nothing may be written, and while another holds
// it.
TEST(ShardTest, IsReadWithoutALock) {
  const TestDirectory directory;
  const Documents documents = RandomDocuments(2, 50, 256, 1);
  WriteShard(directory / "a.h5", documents, TestTokenizer());
  ASSERT_EQ(::chmod((directory / "a.h5").c_str(), 0444), 0);
  const int file = ::open((directory / "a.h5").c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(file, LOCK_EX | LOCK_NB), 0);
  auto shard = ShardReader::Open(directory / "a.h5", /*keep_open=*/false);
  ASSERT_OK(shard);
  std::vector<int32_t> tokens(static_cast<size_t>((*shard)->header().tokens));
  ASSERT_OK((*shard)->ReadTokens(0, tokens));
  EXPECT_EQ(tokens, Flat(documents, TestTokenizer().separator));
  ::close(file);
}

class ShardWidth : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Vocabularies, ShardWidth, testing::Values(264, 65536, 65537, 1 << 20));

// More than one block of tokens at either width, read whole, backwards and in odd parts.
TEST_P(ShardWidth, KeepsTokensAndOffsets) {
  const TestDirectory directory;
  const ShardTokenizer tokenizer = TestTokenizer(GetParam());
  const Documents documents =
      RandomDocuments(300, 5000, static_cast<int32_t>(tokenizer.vocabulary), 3);
  const std::vector<int32_t> all = Flat(documents, tokenizer.separator);
  WriteShard(directory / "a.h5", documents, tokenizer);
  auto shard = ShardReader::Open(directory / "a.h5", /*keep_open=*/GetParam() % 2 == 0);
  ASSERT_OK(shard);
  const ShardHeader& header = (*shard)->header();
  EXPECT_EQ(header.tokens, static_cast<int64_t>(all.size()));
  EXPECT_EQ(header.documents, 300);
  EXPECT_EQ(header.token_bytes(), GetParam() <= 65536 ? 2 : 4);
  EXPECT_GT(header.token_blocks(), 1);
  std::vector<int32_t> read(all.size());
  for (size_t end = all.size(), step = 1; end > 0; step = step * 3 + 1) {
    const size_t begin = end - std::min(end, step);
    ASSERT_OK((*shard)->ReadTokens(static_cast<int64_t>(begin),
                                   std::span(read).subspan(begin, end - begin)));
    end = begin;
  }
  EXPECT_EQ(read, all);
  std::vector<uint64_t> offsets(301);
  ASSERT_OK((*shard)->ReadOffsets(0, offsets));
  EXPECT_EQ(offsets[0], 0u);
  for (size_t i = 0; i < 300; ++i) {
    ASSERT_EQ(offsets[i + 1] - offsets[i], documents[i].size() + 1);
    ASSERT_EQ(all[offsets[i + 1] - 1], tokenizer.separator);
  }
  EXPECT_OK((*shard)->Verify());
  EXPECT_THAT(Failure((*shard)->ReadTokens(header.tokens, std::span(read).first(1))),
              HasSubstr("lie outside"));
}

TEST(Shard, EqualContentsGiveEqualBytes) {
  const TestDirectory directory;
  const Documents documents = RandomDocuments(20, 100, 256, 1);
  WriteShard(directory / "a.h5", documents, TestTokenizer());
  WriteShard(directory / "b.h5", documents, TestTokenizer());
  EXPECT_EQ(ReadText(directory / "a.h5"), ReadText(directory / "b.h5"));
}

// The worked example of docs/shard_format.md: these numbers are frozen.
TEST(Shard, MatchesTheDocumentedExample) {
  const TestDirectory directory;
  WriteShard(directory / "a.h5", {{'h', 'i'}, {'a', '\n'}}, TestTokenizer());
  auto file = Hdf5File::OpenReadOnly(directory / "a.h5");
  ASSERT_OK(file);
  EXPECT_EQ(*file->ReadString("format"), "mnemosyne-token-shard");
  EXPECT_EQ(*file->ReadUint64("schema_version"), 1u);
  EXPECT_EQ(*file->ReadUint64("tokens"), 6u);
  EXPECT_EQ(*file->ReadUint64("documents"), 2u);
  EXPECT_EQ(*file->ReadString("tokenizer_hash"), "bb20976731956c6c8d3a416c7bda45a3");
  EXPECT_EQ(*file->ReadString("header_digest"), "9d3c1c557d717de1dd6bd71497a49485");
  auto tokens = file->OpenDataset("tokens", Hdf5Type::kUint16, 1);
  ASSERT_OK(tokens);
  std::vector<uint16_t> values(6);
  ASSERT_OK(tokens->Read(0, 6, values.data()));
  EXPECT_THAT(values, testing::ElementsAre(104, 105, 256, 97, 10, 256));
  for (const auto& [name, hex] :
       {std::pair("token_digests", "1a779123d719551db654c118d9f115db"),
        std::pair("offset_digests", "d99b53ae657de2eacff88304cc018515")}) {
    auto digests = file->OpenDataset(name, Hdf5Type::kUint8, 2);
    ASSERT_OK(digests);
    Digest digest;
    ASSERT_OK(digests->Read(0, 1, digest.bytes.data()));
    EXPECT_EQ(digest.Hex(), hex);
  }
}

TEST(Shard, LeavesNothingBehindButItself) {
  const TestDirectory directory;
  WriteShard(directory / "a.h5", RandomDocuments(3, 100, 256, 1), TestTokenizer());
  EXPECT_EQ(*FileSystem::Posix().List(directory.path()), std::vector<std::string>{"a.h5"});
  {
    auto writer = ShardWriter::Create(FileSystem::Posix(), directory / "b.h5", TestTokenizer(), "");
    ASSERT_OK(writer);
    ASSERT_OK((*writer)->Append(std::vector<int32_t>{1, 2}));
    EXPECT_THAT(Failure((*writer)->Finish()), HasSubstr("still open"));
    EXPECT_THAT(Failure((*writer)->Append(std::vector<int32_t>{264})),
                HasSubstr("token 264 is outside the vocabulary of 264"));
  }
  EXPECT_EQ(*FileSystem::Posix().List(directory.path()), std::vector<std::string>{"a.h5"});
}

TEST(Shard, EmptyDocumentsLeaveNoTrace) {
  const TestDirectory directory;
  auto writer = ShardWriter::Create(FileSystem::Posix(), directory / "a.h5", TestTokenizer(), "");
  ASSERT_OK(writer);
  ASSERT_OK((*writer)->EndDocument());
  ASSERT_OK((*writer)->Append(std::vector<int32_t>{5}));
  ASSERT_OK((*writer)->EndDocument());
  ASSERT_OK((*writer)->EndDocument());
  const auto header = (*writer)->Finish();
  ASSERT_OK(header);
  EXPECT_EQ(header->documents, 1);
  EXPECT_EQ(header->tokens, 2);
}

TEST(Shard, ChecksTheTokenizersModel) {
  const TestDirectory directory;
  ShardTokenizer tokenizer = TestTokenizer();
  auto writer = ShardWriter::Create(FileSystem::Posix(), directory / "a.h5", tokenizer, "model");
  ASSERT_OK((*writer)->Append(std::vector<int32_t>{5}));
  ASSERT_OK((*writer)->EndDocument());
  ASSERT_OK((*writer)->Finish());
  auto shard = ShardReader::Open(directory / "a.h5");
  ASSERT_OK(shard);
  EXPECT_THAT(Failure((*shard)->ReadTokenizerModel()), HasSubstr("does not match its hash"));
}

}  // namespace
}  // namespace mnemo
