// Damaged shards: bits of every region, and all kinds of lengths.
#include <fmt/format.h>

#include "src/data/hdf5.h"
#include "src/data/inspect.h"
#include "src/data/shard_reader.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

absl::Status OpenAndVerify(const std::string& path) {
  auto shard = ShardReader::Open(path);
  return shard.ok() ? (*shard)->Verify() : shard.status();
}

// The header and all contents, as text.
std::string Contents(const std::string& path) {
  auto shard = ShardReader::Open(path);
  if (!shard.ok()) return "unreadable";
  const ShardHeader& header = (*shard)->header();
  std::vector<int32_t> tokens(static_cast<size_t>(header.tokens));
  std::vector<uint64_t> offsets(static_cast<size_t>(header.documents) + 1);
  if (!(*shard)->ReadTokens(0, tokens).ok() || !(*shard)->ReadOffsets(0, offsets).ok()) {
    return "unreadable";
  }
  return fmt::format("{} {} {} {} [{}] [{}]", header.tokenizer.kind, header.tokenizer.hash.Hex(),
                     header.tokenizer.vocabulary, header.tokenizer.separator,
                     fmt::join(tokens, ","), fmt::join(offsets, ","));
}

// Flips a bit of every fifth byte of a small shard, each bit in turn: every field is hit. Either
// the damage is found, or it hit a byte that carries nothing and all that can be read is what was
// written.
TEST(ShardDamage, NoFlippedBitGoesUnnoticed) {
  const TestDirectory directory;
  const std::string good = directory / "good.h5", bad = directory / "bad.h5";
  WriteShard(good, RandomDocuments(5, 40, 256, 7), TestTokenizer());
  const std::string bytes = ReadText(good);
  const std::string contents = Contents(good);
  size_t found = 0;
  for (size_t i = 0; i < bytes.size(); i += 5) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    WriteText(bad, damaged);
    if (!OpenAndVerify(bad).ok()) {
      ++found;
    } else {
      ASSERT_EQ(Contents(bad), contents) << "byte " << i;
    }
  }
  // Everything that carries data is found; what is not are the library's paddings.
  EXPECT_GT(found, bytes.size() / 5 / 2) << bytes.size();
}

TEST(ShardDamage, NoTruncationGoesUnnoticed) {
  const TestDirectory directory;
  WriteShard(directory / "good.h5", RandomDocuments(5, 40, 256, 7), TestTokenizer());
  const std::string bytes = ReadText(directory / "good.h5");
  for (size_t size = 0; size < bytes.size(); size += 1 + size / 64) {
    WriteText(directory / "bad.h5", bytes.substr(0, size));
    ASSERT_THAT(Failure(OpenAndVerify(directory / "bad.h5")),
                AnyOf(HasSubstr("bad.h5 is not a readable HDF5 file (cut short or damaged?)"),
                      HasSubstr("cannot read")));
  }
}

// Replaces the first occurrence of `from`, which HDF5 does not checksum.
void Replace(const std::string& path, std::string_view from, std::string_view to) {
  std::string bytes = ReadText(path);
  const size_t at = bytes.find(from);
  ASSERT_NE(at, std::string::npos);
  ASSERT_EQ(from.size(), to.size());
  WriteText(path, bytes.replace(at, from.size(), to));
}

std::string Narrow(const std::vector<int32_t>& tokens) {
  std::string bytes;
  for (int32_t token : tokens) {
    bytes.push_back(static_cast<char>(token & 255));
    bytes.push_back(static_cast<char>(token >> 8));
  }
  return bytes;
}

TEST(ShardDamage, NamesFileBlockAndWhatToDo) {
  const TestDirectory directory;
  const std::string path = directory / "a.h5";
  Documents documents = RandomDocuments(2, 10, 256, 7);
  documents.push_back(std::vector<int32_t>(600000, 'x'));  // more than one block
  documents.push_back({'m', 'a', 'r', 'k', 'e', 'r'});
  WriteShard(path, documents, TestTokenizer());
  Replace(path, Narrow(documents.back()), Narrow({'m', 'a', 'r', 'k', 'e', 's'}));
  auto shard = ShardReader::Open(path);
  ASSERT_OK(shard);  // the header is fine
  std::vector<int32_t> tokens(1);
  EXPECT_OK((*shard)->ReadTokens(0, tokens));  // the first block too
  const std::string message = Failure((*shard)->ReadTokens((*shard)->header().tokens - 1, tokens));
  EXPECT_THAT(message, HasSubstr(path + ": block 1 of tokens (rows 524288 to 600"));
  EXPECT_THAT(message, HasSubstr("does not match its digest: the file is damaged; restore"));
  EXPECT_EQ(Failure((*shard)->Verify()), message);
}

TEST(ShardDamage, FindsWhatHdf5DoesNotChecksum) {
  const TestDirectory directory;
  const Documents documents = {{1, 2, 3, 4, 5, 6, 7, 8}, {9, 10}};
  const auto damaged = [&](std::string_view from, std::string_view to) {
    WriteShard(directory / "a.h5", documents, TestTokenizer());
    Replace(directory / "a.h5", from, to);
    return Failure(OpenAndVerify(directory / "a.h5"));
  };
  // The second document's end, 12, as uint64.
  EXPECT_THAT(damaged(std::string_view("\x09\0\0\0\0\0\0\0\x0C", 9),
                      std::string_view("\x09\0\0\0\0\0\0\0\x0B", 9)),
              HasSubstr("block 0 of document_offsets"));
  WriteShard(directory / "a.h5", documents, TestTokenizer());
  std::string digest(reinterpret_cast<const char*>(
                         DigestOf(Narrow({1, 2, 3, 4, 5, 6, 7, 8, 256, 9, 10, 256})).bytes.data()),
                     16);
  std::string other = digest;
  other[3] = static_cast<char>(other[3] + 1);
  EXPECT_THAT(damaged(digest, other), HasSubstr("the header does not match its digest"));
}

TEST(ShardDamage, TellsOtherFilesApart) {
  const TestDirectory directory;
  EXPECT_THAT(Failure(ShardReader::Open(directory / "none.h5")),
              HasSubstr("none.h5: No such file or directory"));
  WriteText(directory / "text.h5", "This is no HDF5 file at all, whatever its name may say.");
  EXPECT_THAT(Failure(ShardReader::Open(directory / "text.h5")),
              HasSubstr("text.h5 is not a readable HDF5 file"));
  auto file = Hdf5File::Create(directory / "other.h5");
  ASSERT_OK(file);
  ASSERT_OK(file->WriteAttribute("format", std::string("something else")));
  ASSERT_OK(file->Close());
  EXPECT_THAT(Failure(ShardReader::Open(directory / "other.h5")),
              HasSubstr("other.h5 is not a token shard"));
  file = Hdf5File::Create(directory / "newer.h5");
  ASSERT_OK(file);
  ASSERT_OK(file->WriteAttribute("format", std::string(kShardFormat)));
  ASSERT_OK(file->WriteAttribute("schema_version", uint64_t{2}));
  ASSERT_OK(file->Close());
  EXPECT_THAT(Failure(ShardReader::Open(directory / "newer.h5")),
              HasSubstr("schema version 2, this program reads version 1"));
}

TEST(InspectShards, ReportsGoodAndBad) {
  const TestDirectory directory;
  const Documents documents = {{1, 2, 3, 4, 5, 6, 7, 8}, {9, 10}};
  WriteShard(directory / "a.h5", documents, TestTokenizer());
  WriteShard(directory / "b.h5", documents, TestTokenizer());
  Replace(directory / "b.h5", Narrow({9, 10, 256}), Narrow({9, 11, 256}));
  std::vector<ShardFacts> facts;
  const auto keep = [&](const ShardFacts& each) { facts.push_back(each); };
  EXPECT_OK(InspectShards({directory.path()}, false, keep));
  EXPECT_THAT(Failure(InspectShards({directory.path()}, true, keep)),
              HasSubstr("1 of 2 shards are bad"));
  ASSERT_EQ(facts.size(), 4u);
  EXPECT_EQ(facts[0].header.tokens, 12);
  EXPECT_FALSE(facts[0].verified);
  EXPECT_TRUE(facts[2].verified);
  EXPECT_THAT(Failure(facts[3].status), HasSubstr("b.h5: block 0 of tokens"));
  EXPECT_THAT(Failure(InspectShards({directory / "none.h5"}, false, keep)),
              HasSubstr("1 of 1 shards are bad"));
}

}  // namespace
}  // namespace mnemo
