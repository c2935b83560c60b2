#include "src/data/token_set.h"

#include <filesystem>
#include <numeric>

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TokenSet, ReadsShardsAsOneRun) {
  const TestDirectory directory;
  WriteShard(directory / "b.h5", {{3, 4}, {5}}, TestTokenizer());
  WriteShard(directory / "a.h5", {{1, 2}}, TestTokenizer());
  const auto set = OpenSet({directory.path()});
  EXPECT_EQ(set->tokens(), 8);
  EXPECT_EQ(set->documents(), 3);
  std::vector<int32_t> tokens(8);
  ASSERT_OK(set->ReadTokens(0, tokens));
  EXPECT_THAT(tokens, ElementsAre(1, 2, 256, 3, 4, 256, 5, 256));
  ASSERT_OK(set->ReadTokens(2, std::span(tokens).first(2)));
  EXPECT_THAT(std::span(tokens).first(2), ElementsAre(256, 3));
  EXPECT_THAT(Failure(set->ReadTokens(1, tokens)), HasSubstr("lie outside the data set's 8"));
  EXPECT_EQ((*set->LoadTokenizer())->kind(), "bytes");
}

TEST(TokenSet, RefusesMixedTokenizers) {
  const TestDirectory directory;
  WriteShard(directory / "a.h5", {{1, 2}}, TestTokenizer());
  ShardTokenizer other = TestTokenizer();
  other.hash.bytes[0] ^= 1;
  WriteShard(directory / "b.h5", {{1, 2}}, other);
  const std::string message =
      Failure(TokenSet::Open({directory / "a.h5", directory / "b.h5"}, ShardRole::kTraining));
  EXPECT_THAT(message, HasSubstr("a.h5 and "));
  EXPECT_THAT(message, HasSubstr("b.h5 were made with different tokenizers (bytes "));
  EXPECT_THAT(message, HasSubstr(other.hash.Hex()));
  WriteShard(directory / "b.h5", {{1, 2}}, TestTokenizer(300));
  EXPECT_THAT(
      Failure(TokenSet::Open({directory / "a.h5", directory / "b.h5"}, ShardRole::kTraining)),
      HasSubstr("vocabulary 300"));
  EXPECT_THAT(Failure(TokenSet::Open({directory / "a.h5", directory.path() + "/./a.h5"},
                                     ShardRole::kTraining)),
              HasSubstr("a.h5 is given twice"));
}

TEST(ResolveShards, KeepsHeldOutTextOutOfTraining) {
  const TestDirectory directory;
  for (const char* name : {"train-00001.h5", "train-00000.h5", "eval-00000.h5", "notes.txt"}) {
    WriteText(directory / name, "");
  }
  const auto resolve = [&](const std::string& path, ShardRole role) {
    auto files = ResolveShards({path}, role);
    EXPECT_OK(files);
    for (std::string& file : *files) file = file.substr(file.rfind('/') + 1);
    return *files;
  };
  EXPECT_THAT(resolve(directory.path(), ShardRole::kTraining),
              ElementsAre("train-00000.h5", "train-00001.h5"));
  EXPECT_THAT(resolve(directory.path(), ShardRole::kEvaluation), ElementsAre("eval-00000.h5"));
  EXPECT_THAT(resolve(directory / "*-00000.h5", ShardRole::kTraining),
              ElementsAre("eval-00000.h5", "train-00000.h5"));
  EXPECT_THAT(resolve(directory / "eval-00000.h5", ShardRole::kTraining),
              ElementsAre("eval-00000.h5"));
  std::remove((directory / "eval-00000.h5").c_str());
  EXPECT_THAT(resolve(directory.path(), ShardRole::kEvaluation),
              ElementsAre("train-00000.h5", "train-00001.h5"));
}

TEST(ResolveShards, SaysWhatIsMissing) {
  const TestDirectory directory;
  EXPECT_THAT(Failure(ResolveShards({}, ShardRole::kTraining)),
              HasSubstr("no training shards are given"));
  EXPECT_THAT(Failure(ResolveShards({directory / "x.h5"}, ShardRole::kEvaluation)),
              HasSubstr("evaluation shard " + directory.path() + "/x.h5 does not exist"));
  EXPECT_THAT(Failure(ResolveShards({directory.path()}, ShardRole::kTraining)),
              HasSubstr("holds no training shard"));
  EXPECT_THAT(Failure(ResolveShards({directory / "train-*.h5"}, ShardRole::kTraining)),
              HasSubstr("train-*.h5 holds no training shard"));
}

TEST(FirstSharedShard, SeesThroughNamesAndLinks) {
  const TestDirectory directory;
  for (const char* name : {"train-0.h5", "train-1.h5", "other.h5"}) {
    WriteShard(directory / name, {{1, 2}}, TestTokenizer());
  }
  std::filesystem::create_symlink(directory / "train-1.h5", directory / "link.h5");
  const auto training = OpenSet({directory / "train-*.h5"});
  const auto shared = [&](const std::vector<std::string>& paths) {
    return FirstSharedShard(training->files(), OpenSet(paths)->files());
  };
  EXPECT_EQ(shared({directory / "other.h5"}), "");
  EXPECT_EQ(shared({directory / "other.h5", directory / "link.h5"}), directory / "link.h5");
  EXPECT_EQ(shared({directory / "./train-0.h5"}), directory / "./train-0.h5");
  EXPECT_EQ(shared({directory.path() + "/train-*.h5"}), directory / "train-0.h5");
}

}  // namespace
}  // namespace mnemo
