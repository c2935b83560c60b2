#include "src/ckpt/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>

#include "src/ckpt/safetensors_header.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using testing::HasSubstr;

FileSystem& Fs() { return FileSystem::Posix(); }

Tensor Counting(const Shape& shape, DType dtype) {
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) - 1.5;
  return Tensor::FromHost(std::span<const double>(values), shape, dtype);
}

std::vector<NamedTensor> Samples() {
  const int32_t ids[] = {3, -1, 7};
  return {{"a.weight", Counting({3, 4}, DType::kF32)},
          {"b", Counting({5}, DType::kBF16)},
          {"c", Tensor::FromHost(std::span<const int32_t>(ids), {3})},
          {"d.scalar", Counting({}, DType::kF64)},
          {"e.turned", Counting({2, 3}, DType::kF64).Transpose()},
          {"f.empty", Counting({0, 4}, DType::kF32)}};
}

// A file of this header and so many bytes of data.
std::string FileBytes(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + std::string(data_bytes, '\1');
}

absl::StatusOr<Digest> Write(const std::string& path, const std::vector<NamedTensor>& tensors,
                             const std::map<std::string, std::string>& metadata = {}) {
  return WriteSafetensors(Fs(), path, Streamed(tensors), metadata);
}

std::string OpenError(const std::string& path) {
  return std::string(SafetensorsReader::Open(Fs(), path).status().message());
}

TEST(SafetensorsTest, EveryTensorComesBackAsItWas) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  const std::vector<NamedTensor> samples = Samples();
  ASSERT_TRUE(Write(path, samples, {{"made by", "a \"test\"\n"}}).ok());
  EXPECT_FALSE(Fs().Exists(path + ".tmp"));
  const auto reader = SafetensorsReader::Open(Fs(), path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->entries().size(), samples.size());
  EXPECT_THAT(reader->metadata(), testing::ElementsAre(testing::Pair("made by", "a \"test\"\n")));
  for (const NamedTensor& sample : samples) {
    const auto read = reader->Read(sample.name);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->shape(), sample.value.shape());
    EXPECT_EQ(read->dtype(), sample.value.dtype());
    EXPECT_EQ(read->ToDoubles(), sample.value.ToDoubles()) << sample.name;
  }
  EXPECT_THAT(std::string(reader->Read("g").status().message()), HasSubstr("no tensor \"g\""));
}

// What one rank of many takes of a tensor; larger than a block, so that boxes lie across several.
TEST(SafetensorsTest, ABoxIsReadAndTheWholeTensorVerified) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  const Tensor x = Counting({3, 500, 401}, DType::kF32);
  ASSERT_TRUE(Write(path, {{"small", Counting({2}, DType::kF32)}, {"x", x}}).ok());
  const auto reader = SafetensorsReader::Open(Fs(), path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  for (const Box& box :
       {Box{{1, 0, 0}, {2, 500, 401}}, Box{{0, 499, 0}, {3, 1, 401}}, Box{{0, 0, 17}, {3, 500, 2}},
        Box{{2, 499, 400}, {1, 1, 1}}, Box{{1, 3, 5}, {0, 4, 4}}, WholeBox({3, 500, 401})}) {
    SCOPED_TRACE(ToString(box));
    const auto part = reader->ReadBox("x", box);
    ASSERT_TRUE(part.ok()) << part.status();
    Tensor expected = x;
    for (int d = 0; d < 3; ++d) {
      expected = expected.Slice(d, box.begin[d], box.begin[d] + box.shape[d]);
    }
    EXPECT_EQ(part->shape(), box.shape);
    EXPECT_EQ(part->ToDoubles(), expected.ToDoubles());
  }
  for (const Box& box : {Box{}, Box{{0, 0, 0}, {4, 1, 1}}, Box{{-1, 0, 0}, {1, 1, 1}}}) {
    EXPECT_THAT(std::string(reader->ReadBox("x", box).status().message()),
                HasSubstr("does not lie in its shape [3, 500, 401]"));
  }
  // Damage that no element of the box has is found, too.
  std::string bytes = Fs().ReadFile(path).value();
  bytes.back() ^= 1;
  ASSERT_TRUE(WriteFileAtomically(Fs(), path, bytes).ok());
  const absl::Status damaged = reader->ReadBox("x", {{0, 0, 0}, {1, 1, 1}}).status();
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(damaged.message()), HasSubstr(path + ": tensor \"x\" is damaged"));
}

TEST(SafetensorsTest, ATensorThatChangesOnTheWayIsNotWritten) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  int calls = 0;
  std::vector<StreamedTensor> tensors = Streamed(Samples());
  tensors[1].read = [&] { return Tensor::Full({5}, ++calls, DType::kBF16); };
  const absl::Status status = WriteSafetensors(Fs(), path, tensors, {}).status();
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(path + ".tmp: tensor \"b\" changed while it was written"));
  EXPECT_EQ(calls, 2);
  tensors[1].read = [&]() -> absl::StatusOr<Tensor> {
    if (++calls < 4) return Tensor::Full({5}, 1, DType::kBF16);
    return absl::DataLossError("the source is damaged");
  };
  EXPECT_EQ(WriteSafetensors(Fs(), path, tensors, {}).status(),
            absl::DataLossError("the source is damaged"));
  EXPECT_TRUE(Fs().List(scratch / "").value().empty());
}

TEST(SafetensorsTest, TheDigestOfTheHeaderTellsFilesApart) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  const auto digest = Write(path, Samples());
  ASSERT_TRUE(digest.ok());
  EXPECT_EQ(SafetensorsReader::Open(Fs(), path)->header_digest(), *digest);
  std::vector<NamedTensor> other = Samples();
  other[0].value = Tensor::Zeros({3, 4}, DType::kF32);
  EXPECT_NE(*Write(path, other), *digest);
}

TEST(SafetensorsTest, TheDataIsAlignedAndReplacesAnOlderFile) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  ASSERT_TRUE(WriteFileAtomically(Fs(), path, "old").ok());
  ASSERT_TRUE(Write(path, Samples()).ok());
  const auto reader = SafetensorsReader::Open(Fs(), path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->entries().find("a.weight")->second.offset % 8, 0);
}

TEST(SafetensorsTest, NamesThatWouldNotComeBackAreRefusedAndNothingIsWritten) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  const Tensor x = Counting({2}, DType::kF32);
  for (const std::vector<NamedTensor>& bad : std::vector<std::vector<NamedTensor>>{
           {{"", x}}, {{"__metadata__", x}}, {{"a", x}, {"a", x}}, {{"\xff", x}}}) {
    EXPECT_EQ(Write(path, bad).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(Fs().Exists(path));
    EXPECT_FALSE(Fs().Exists(path + ".tmp"));
  }
}

TEST(SafetensorsTest, AnUnwritableDirectoryIsNamed) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "missing/x.safetensors";
  const absl::Status status = Write(path, Samples()).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
}

struct BadHeader {
  const char* header;
  size_t data_bytes;
  const char* message;
};

TEST(SafetensorsTest, EveryFaultOfTheHeaderHasItsMessage) {
  const std::vector<BadHeader> cases = {
      {"", 0, "not valid JSON"},
      {"{\"a\":", 0, "not valid JSON"},
      {"[1]", 0, "not a JSON object"},
      {"{\"a\":{\"dtype\":{\"x\":{\"y\":1}}}}", 0, "nested too deeply"},
      {"{\"a\":[[[[[1]]]]]}", 0, "nested too deeply"},
      {"{\"a\":1}", 0, "needs dtype, shape and data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "needs dtype, shape and data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
       "nothing else"},
      {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "dtype \"F16\""},
      {"{\"a\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "dtype 3"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "not a list"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
       "not a list of at most 8"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "impossible shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, "impossible shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
       "impossible shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551615],\"data_offsets\":[0,4]}}", 4,
       "impossible shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "not a range"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "not a range"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "not a range"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4, "truncated?"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "4 bytes for shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "with a gap after"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
       8, "inside the one before"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 6,
       "2 bytes follow the last tensor"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
       "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
       0, "names \"a\" twice"},
      {"{\"__metadata__\":3}", 0, "not an object"},
      {"{\"__metadata__\":{\"x\":3}}", 0, "\"x\" is not a string"},
      {"{\"__metadata__\":{\"xxh3_128/a\":\"00\"}}", 0, "the digest of no tensor"},
      {"{\"__metadata__\":{\"xxh3_128/a\":\"00\"},"
       "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
       0, "1 of 2 tensors"},
  };
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  for (const BadHeader& bad : cases) {
    ASSERT_TRUE(WriteFileAtomically(Fs(), path, FileBytes(bad.header, bad.data_bytes)).ok());
    const auto reader = SafetensorsReader::Open(Fs(), path);
    EXPECT_EQ(reader.status().code(), absl::StatusCode::kDataLoss) << bad.header;
    const std::string message(reader.status().message());
    EXPECT_THAT(message, HasSubstr(bad.message)) << bad.header;
    EXPECT_THAT(message, HasSubstr(path));
    EXPECT_THAT(message, testing::Not(HasSubstr("\n")));
  }
}

TEST(SafetensorsTest, AHeaderThatIsNotThereIsRefusedBeforeItIsRead) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  EXPECT_THAT(OpenError(path), HasSubstr(path));
  for (const std::string& bytes : {std::string(), std::string("1234567"), std::string(8, '\xff'),
                                   std::string(8, '\x7f'), FileBytes("{}", 0).substr(0, 9)}) {
    ASSERT_TRUE(WriteFileAtomically(Fs(), path, bytes).ok());
    EXPECT_THAT(OpenError(path), HasSubstr("safetensors file")) << bytes.size();
  }
  ASSERT_TRUE(WriteFileAtomically(Fs(), path, FileBytes("{}", 0)).ok());
  EXPECT_TRUE(SafetensorsReader::Open(Fs(), path).ok());
}

TEST(SafetensorsTest, EveryTruncationIsFound) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  ASSERT_TRUE(Write(path, Samples(), {{"key", "value"}}).ok());
  const std::string whole = Fs().ReadFile(path).value();
  for (size_t size = 0; size < whole.size(); size += 5) {
    ASSERT_TRUE(WriteFileAtomically(Fs(), path, whole.substr(0, size)).ok());
    EXPECT_FALSE(SafetensorsReader::Open(Fs(), path).ok()) << size;
  }
}

// Everything in the file that is told to a caller; nothing if any of it is refused.
std::string Contents(const std::string& path) {
  const auto reader = SafetensorsReader::Open(Fs(), path);
  if (!reader.ok()) return "";
  std::string text;
  for (const auto& [name, entry] : reader->entries()) {
    if (!reader->Read(name).ok()) return "";
    text += name + ToString(entry.shape) + Name(entry.dtype) + " ";
  }
  return text;
}

TEST(SafetensorsTest, EveryFlippedBitIsFound) {
  const ScratchDirectory scratch;
  const std::string path = scratch / "x.safetensors";
  const std::vector<NamedTensor> samples = {{"a", Counting({3, 2}, DType::kF32)},
                                            {"b", Counting({5}, DType::kBF16)}};
  ASSERT_TRUE(Write(path, samples).ok());
  const std::string whole = Fs().ReadFile(path).value();
  ASSERT_FALSE(Contents(path).empty());
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_TRUE(Fs().Create(path).value()->Append(damaged).ok());
    EXPECT_EQ(Contents(path), "") << "bit " << bit;
  }
}

}  // namespace
}  // namespace mnemo
