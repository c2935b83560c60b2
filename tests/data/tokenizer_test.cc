#include "src/data/tokenizer.h"

#include <fmt/format.h>

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

TEST(BytesTokenizer, IsLossless) {
  const auto tokenizer = MakeBytesTokenizer();
  std::string every;
  for (int i = 0; i < 256; ++i) every.push_back(static_cast<char>(i));
  std::vector<int32_t> tokens = {7};
  ASSERT_OK(tokenizer->Encode(every, tokens));
  ASSERT_EQ(tokens.size(), 257u);
  EXPECT_EQ(tokens[0], 7);  // appends
  EXPECT_EQ(tokens[1 + 200], 200);
  tokens.push_back(tokenizer->separator());
  EXPECT_EQ(*tokenizer->Decode(tokens), "\x07" + every);
  EXPECT_EQ(tokenizer->vocabulary() % 8, 0);
  EXPECT_GE(tokenizer->separator(), 256);
  EXPECT_THAT(Failure(tokenizer->DecodeOne(264)), HasSubstr("outside the vocabulary of 264"));
}

TEST(TokenizerHash, DependsOnKindAndModel) {
  EXPECT_NE(TokenizerHash("a", "bc"), TokenizerHash("ab", "c"));
  EXPECT_NE(TokenizerHash("a", "b"), TokenizerHash("a", "c"));
  // Frozen: shards depend on it.
  EXPECT_EQ(TokenizerHash("bytes", "").Hex(), "bb20976731956c6c8d3a416c7bda45a3");
}

TEST(MakeTokenizer, NamesWhatThereIs) {
  EXPECT_THAT(Failure(MakeTokenizer("words", "")), HasSubstr("bytes or sentencepiece"));
  EXPECT_THAT(Failure(MakeTokenizer("bytes", "x")), HasSubstr("no model file"));
}

class SentencePiece : public testing::Test {
 protected:
  void SetUp() override { MNEMO_NEED_SENTENCEPIECE(); }
  static absl::StatusOr<std::string> Train(SentencePieceOptions options) {
    std::vector<std::string> lines;
    for (int i = 0; i < 2000; ++i) {
      lines.push_back(
          fmt::format("  int value_{} = {} + other_{};  // the next", i % 37, i, i % 11));
    }
    size_t next = 0;
    return TrainSentencePiece(options, [&]() -> std::optional<std::string_view> {
      if (next == lines.size()) return std::nullopt;
      return lines[next++];
    });
  }
};

TEST_F(SentencePiece, TrainsReproducibly) {
  SentencePieceOptions options;
  options.vocabulary = 400;
  const auto model = Train(options);
  ASSERT_OK(model);
  EXPECT_EQ(*model, *Train(options));
  options.type = "bpe";
  const auto other = Train(options);
  ASSERT_OK(other);
  EXPECT_NE(*model, *other);
}

TEST_F(SentencePiece, TrainedModelsAreLossless) {
  SentencePieceOptions options;
  options.vocabulary = 400;
  const auto model = Train(options);
  ASSERT_OK(model);
  const auto tokenizer = MakeTokenizer("sentencepiece", *model);
  ASSERT_OK(tokenizer);
  EXPECT_EQ((*tokenizer)->vocabulary(), 400);
  const std::string text = "  int  value;\n\n\treturn \xE2\x82\xAC \xF0\x9F\x98\x80 </s> tail \n ";
  std::vector<int32_t> tokens;
  ASSERT_OK((*tokenizer)->Encode(text, tokens));
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), (*tokenizer)->separator()), 0);
  tokens.push_back((*tokenizer)->separator());
  EXPECT_EQ(*(*tokenizer)->Decode(tokens), text);
  std::string pieces;
  for (int32_t token : tokens) pieces += *(*tokenizer)->DecodeOne(token);
  EXPECT_EQ(pieces, text);
  tokens.clear();
  ASSERT_OK((*tokenizer)->Encode("  int value_3 = 40 + other_7;  // the next", tokens));
  EXPECT_LT(tokens.size(), 42u);  // characters
}

// What makes encoding in pieces exact: no token of our models spans a newline.
TEST_F(SentencePiece, CuttingAfterNewlinesChangesNothing) {
  SentencePieceOptions options;
  options.vocabulary = 400;
  const auto tokenizer = MakeTokenizer("sentencepiece", *Train(options));
  ASSERT_OK(tokenizer);
  const std::string first = "  int value_3 = 4;\n", second = "    other_9  the next\n\nvalue";
  std::vector<int32_t> whole, parts;
  ASSERT_OK((*tokenizer)->Encode(first + second, whole));
  ASSERT_OK((*tokenizer)->Encode(first, parts));
  ASSERT_OK((*tokenizer)->Encode(second, parts));
  EXPECT_EQ(whole, parts);
}

TEST_F(SentencePiece, RefusesWhatItCannotUse) {
  EXPECT_THAT(Failure(MakeTokenizer("sentencepiece", "no model")),
              HasSubstr("not a SentencePiece model (8 bytes)"));
  SentencePieceOptions options;
  options.vocabulary = 20000;
  EXPECT_THAT(Failure(Train(options)), HasSubstr("cannot train 20000 pieces"));
  options.vocabulary = 10;
  EXPECT_THAT(Failure(Train(options)), HasSubstr("outside 300 to"));
  options.vocabulary = 400;
  options.type = "words";
  EXPECT_THAT(Failure(Train(options)), HasSubstr("unigram or bpe"));
  options.type = "unigram";
  const auto tokenizer = MakeTokenizer("sentencepiece", *Train(options));
  ASSERT_OK(tokenizer);
  std::vector<int32_t> tokens;
  EXPECT_THAT(Failure((*tokenizer)->Encode("ab\xFF", tokens)), HasSubstr("not UTF-8 at byte 2"));
}

}  // namespace
}  // namespace mnemo
