// Weights in one file or in several: what is written, and everything that an index and its files
// can say against each other.
#include "src/ckpt/model_weights.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "src/ckpt/safetensors_index.h"
#include "src/core/backend.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

FileSystem& Fs() { return FileSystem::Posix(); }

Tensor Values(int64_t count, double first) {
  std::vector<double> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = first + static_cast<double>(i);
  return Tensor::FromHost(std::span<const double>(values), {count}, DType::kF32);
}

// Of 16, 8, 40 and 4 bytes.
std::vector<NamedTensor> Samples(double first = 0) {
  return {{"d", Values(4, first)},
          {"a", Values(2, first + 10)},
          {"large", Values(10, first + 20)},
          {"b", Values(1, first + 30)}};
}

constexpr char kOne[] = "model-00001-of-00003.safetensors",
               kTwo[] = "model-00002-of-00003.safetensors",
               kThree[] = "model-00003-of-00003.safetensors",
               kIndex[] = "model.safetensors.index.json";

class ModelWeightsTest : public testing::Test {
 protected:
  ModelWeightsTest() { EXPECT_TRUE(Fs().MakeDirectories(at_).ok()); }

  int Write(int64_t shard_bytes, double first = 0) {
    const auto files = WriteModelWeights(Fs(), at_, Streamed(Samples(first)), shard_bytes);
    EXPECT_TRUE(files.ok()) << files.status();
    return files.value_or(-1);
  }
  std::string Path(const std::string& name) const { return at_ + "/" + name; }
  void WriteText(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(Fs(), Path(name), text).ok());
  }
  nlohmann::json Index() { return nlohmann::json::parse(Fs().ReadFile(Path(kIndex)).value()); }
  void SetIndex(const nlohmann::json& json) { WriteText(kIndex, json.dump()); }
  // Why they cannot be opened: one line.
  std::string Refusal() {
    const absl::Status status = ModelWeights::Open(Fs(), at_).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("\n")));
    return std::string(status.message());
  }
  void ExpectHolds(double first) {
    const auto weights = ModelWeights::Open(Fs(), at_);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(weights->entries().size(), 4u);
    for (const NamedTensor& sample : Samples(first)) {
      const auto read = weights->ReadBox(sample.name, WholeBox(sample.value.shape()));
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(read->ToDoubles(), sample.value.ToDoubles()) << sample.name;
    }
    EXPECT_THAT(std::string(weights->ReadBox("x", {}).status().message()),
                HasSubstr("no tensor \"x\""));
  }

  const ScratchDirectory scratch_;
  const std::string at_ = scratch_ / "model";
};

TEST_F(ModelWeightsTest, AreOneFileWhereAllFit) {
  for (const int64_t limit : {int64_t{68}, kDefaultShardBytes}) {
    EXPECT_EQ(Write(limit), 1);
    EXPECT_THAT(Fs().List(at_).value(), ElementsAre("model.safetensors"));
    ExpectHolds(0);
  }
}

TEST_F(ModelWeightsTest, AreCutInOrderWithAnIndexAsOtherToolsReadIt) {
  EXPECT_EQ(Write(24), 3);
  EXPECT_THAT(Fs().List(at_).value(), ElementsAre(kOne, kTwo, kThree, kIndex));
  const nlohmann::json index = Index();
  EXPECT_EQ(index["metadata"]["total_size"], 68);
  EXPECT_EQ(index["weight_map"],
            (nlohmann::json{{"d", kOne}, {"a", kOne}, {"large", kTwo}, {"b", kThree}}));
  EXPECT_EQ(index["metadata"]["header_xxh3_128"].size(), 3u);
  ExpectHolds(0);
}

TEST_F(ModelWeightsTest, AFileHoldsAtMostSoMuchOrOneTensor) {
  EXPECT_EQ(Write(67), 2);
  EXPECT_EQ(Write(1), 4);
  EXPECT_EQ(Write(44), 2);
  EXPECT_EQ(Index()["weight_map"]["large"], "model-00002-of-00002.safetensors");
  EXPECT_EQ(Index()["weight_map"]["b"], "model-00002-of-00002.safetensors");
}

TEST_F(ModelWeightsTest, ANameGivenTwiceIsRefused) {
  std::vector<NamedTensor> twice = Samples();
  twice[3].name = "d";
  for (const int64_t limit : {int64_t{8}, kDefaultShardBytes}) {
    EXPECT_THAT(
        std::string(WriteModelWeights(Fs(), at_, Streamed(twice), limit).status().message()),
        HasSubstr("may not be named \"d\" twice"));
  }
}

// However large the model is.
TEST_F(ModelWeightsTest, OneTensorAtATimeIsHeld) {
  constexpr int64_t kElements = 1 << 18, kTensors = 12;
  std::vector<StreamedTensor> tensors;
  for (int i = 0; i < kTensors; ++i) {
    tensors.push_back({"t" + std::to_string(i), DType::kF32, {kElements}, [i] {
                         return Tensor::Full({kElements}, i, DType::kF32);
                       }});
  }
  Backend& host = Backend::For(Device());
  host.ResetPeakMemory();
  const int64_t before = host.Memory().peak_bytes;
  ASSERT_EQ(WriteModelWeights(Fs(), at_, tensors, 4 * 4 * kElements).value(), 3);
  EXPECT_LT(host.Memory().peak_bytes - before, 2 * 4 * kElements);
}

TEST_F(ModelWeightsTest, OfWhichAFileIsMissingAreNotRead) {
  EXPECT_THAT(Refusal(), HasSubstr(Path("model.safetensors")));
  Write(24);
  ASSERT_TRUE(Fs().Remove(Path(kTwo)).ok());
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(Path(kIndex) + ": tensor \"large\" is said to be in "),
                               HasSubstr(std::string(kTwo) + ", which is missing")));
}

TEST_F(ModelWeightsTest, OfBothKindsAreNotGuessedAt) {
  Write(24);
  Write(1000);
  EXPECT_THAT(Refusal(), HasSubstr(at_ + " holds both model.safetensors and "));
}

TEST_F(ModelWeightsTest, AFileOfAnotherExportIsFound) {
  Write(24, 100);
  const std::string other = Fs().ReadFile(Path(kTwo)).value();
  Write(24);
  WriteText(kTwo, other);  // the same names and shapes
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(Path(kTwo) + ": is not the file that " + Path(kIndex)),
                               HasSubstr("of different exports")));
  // Without digests of the headers that cannot be seen.
  nlohmann::json index = Index();
  index["metadata"].erase("header_xxh3_128");
  SetIndex(index);
  EXPECT_TRUE(ModelWeights::Open(Fs(), at_).ok());
}

TEST_F(ModelWeightsTest, WhereIndexAndFilesDisagreeBothAreNamed) {
  Write(24);
  const nlohmann::json good = Index();
  const auto refusal = [&](const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json index = good;
    index["metadata"].erase("header_xxh3_128");
    change(index);
    SetIndex(index);
    return Refusal();
  };
  EXPECT_THAT(refusal([](auto& index) { index["weight_map"]["x"] = kOne; }),
              HasSubstr(Path(kOne) + ": lacks tensor \"x\", which " + Path(kIndex)));
  EXPECT_THAT(
      refusal([](auto& index) { index["weight_map"].erase("a"); }),
      HasSubstr(Path(kOne) + ": holds tensor \"a\", which " + Path(kIndex) + " does not name"));
  EXPECT_THAT(
      refusal([](auto& index) { index["weight_map"]["a"] = kTwo; }),
      AllOf(HasSubstr("holds tensor \"a\", which "), HasSubstr("says is in " + std::string(kTwo))));
  EXPECT_THAT(refusal([](auto& index) { index["metadata"]["total_size"] = 67; }),
              HasSubstr(Path(kIndex) + ": total_size is 67, but the tensors have 68 bytes"));
  EXPECT_THAT(refusal([](auto& index) { index["weight_map"]["large"] = "other.safetensors"; }),
              HasSubstr("other.safetensors, which is missing"));
  // A tensor that two files hold.
  ASSERT_TRUE(WriteSafetensors(
                  Fs(), Path(kThree),
                  Streamed(std::vector<NamedTensor>{{"b", Values(1, 0)}, {"d", Values(4, 0)}}), {})
                  .ok());
  EXPECT_THAT(refusal([](auto&) {}), HasSubstr(Path(kThree) + ": holds tensor \"d\", which "));
  // Damage of a file's header is its own.
  WriteText(kOne, "12345678");
  EXPECT_THAT(refusal([](auto&) {}), HasSubstr(Path(kOne) + ": "));
}

TEST_F(ModelWeightsTest, AnIndexLeadsNowhereElse) {
  Write(24);
  // There, and of the right contents.
  ASSERT_TRUE(Fs().Rename(Path(kTwo), scratch_ / "large.safetensors").ok());
  nlohmann::json index = Index();
  index["metadata"].erase("header_xxh3_128");
  for (const std::string& name :
       {std::string("../large.safetensors"), scratch_ / "large.safetensors",
        std::string("./../large.safetensors"), std::string(".."), std::string(".safetensors"),
        std::string("large"), std::string(), std::string("x\0.safetensors", 14)}) {
    index["weight_map"]["large"] = name;
    SetIndex(index);
    EXPECT_THAT(Refusal(), AllOf(HasSubstr(Path(kIndex) + ": the file of tensor \"large\" is "),
                                 HasSubstr("plain name of a *.safetensors file")))
        << name;
  }
}

TEST(SafetensorsIndexTest, ComesBack) {
  SafetensorsIndex index;
  index.files = {{"a", "x.safetensors"}, {"b \"quoted\"", "y.safetensors"}};
  index.header_digests = {{"x.safetensors", "00ff"}, {"y.safetensors", "11"}};
  index.total_bytes = int64_t{1} << 60;
  const auto read = ParseSafetensorsIndex(PrintSafetensorsIndex(index));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->files, index.files);
  EXPECT_EQ(read->header_digests, index.header_digests);
  EXPECT_EQ(read->total_bytes, index.total_bytes);
}

TEST(SafetensorsIndexTest, WhatOthersAddIsSkipped) {
  const auto read = ParseSafetensorsIndex(
      R"({"metadata":{"total_parameters":3,"x":{"y":[1]}},"weight_map":{"a":"f.safetensors"},"z":1})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_FALSE(read->total_bytes.has_value());
  EXPECT_THAT(read->files, ElementsAre(testing::Pair("a", "f.safetensors")));
  EXPECT_TRUE(ParseSafetensorsIndex(R"({"weight_map":{"a":"f.safetensors"}})").ok());
}

TEST(SafetensorsIndexTest, EveryFaultHasItsMessage) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "the index is not valid JSON"},
      {"{\"weight_map\":", "not valid JSON"},
      {R"({"weight_map":{"a":"f.safetensors"}})" + std::string(1, '\0'), "not valid JSON"},
      {"[]", "not a JSON object"},
      {"{\"metadata\":" + std::string(20, '[') + std::string(20, ']') + "}", "nested too deeply"},
      {"{}", "there is no weight_map"},
      {R"({"weight_map":[]})", "there is no weight_map"},
      {R"({"weight_map":{}})", "there is no weight_map"},
      {R"({"weight_map":{"a":1}})", "the file of tensor \"a\" is 1;"},
      {R"({"weight_map":{"a":"f.safetensors","a":"f.safetensors"}})", "names \"a\" twice"},
      {R"({"weight_map":{"a":"a-model-of-others.bin"}})", "plain name"},
      {R"({"metadata":1,"weight_map":{"a":"f.safetensors"}})", "metadata is not an object"},
      {R"({"metadata":{"total_size":-1},"weight_map":{"a":"f.safetensors"}})",
       "total_size is -1, not a number of bytes"},
      {R"({"metadata":{"total_size":1.5},"weight_map":{"a":"f.safetensors"}})", "total_size"},
      {R"({"metadata":{"total_size":18446744073709551615},"weight_map":{"a":"f.safetensors"}})",
       "total_size"},
      {R"({"metadata":{"header_xxh3_128":1},"weight_map":{"a":"f.safetensors"}})",
       "header_xxh3_128 is not an object"},
      {R"({"metadata":{"header_xxh3_128":{"f.safetensors":1}},"weight_map":{"a":"f.safetensors"}})",
       "is no digest"},
      {R"({"metadata":{"header_xxh3_128":{"g.safetensors":""}},"weight_map":{"a":"f.safetensors"}})",
       "of \"g.safetensors\", which holds no tensor"},
      {R"({"metadata":{"header_xxh3_128":{}},"weight_map":{"a":"f.safetensors"}})",
       "header_xxh3_128 lacks f.safetensors"},
  };
  for (const auto& [text, message] : cases) {
    const absl::Status status = ParseSafetensorsIndex(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << text;
  }
}

}  // namespace
}  // namespace mnemo
