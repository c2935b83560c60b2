#include "src/parallel/packed_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mnemo {
namespace {

using ::testing::ElementsAre;

const Unit kUnit{3, int64_t{1} << 40, 7};

std::vector<std::byte> Packed(const std::vector<Tensor>& tensors) {
  std::vector<std::byte> bytes;
  PackTensors(kUnit, tensors, bytes);
  return bytes;
}

Tensor Numbers(const Shape& shape, DType dtype) {
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) - 2.5;
  return Tensor::FromHost(values, shape, dtype);
}

TEST(PackedTensorsTest, ComeBackAsTheyWere) {
  const std::vector<int32_t> ints{-1, 5};
  const std::vector<Tensor> tensors{
      Numbers({2, 3}, DType::kF32),   Numbers({}, DType::kF64),
      Numbers({5}, DType::kBF16),     Numbers({0, 4}, DType::kF32),
      Tensor::FromHost(ints, {2, 1}), Numbers({1, 1, 17}, DType::kF64)};
  const auto unpacked = UnpackTensors(Packed(tensors));
  ASSERT_TRUE(unpacked.ok()) << unpacked.status().message();
  EXPECT_EQ(unpacked->unit, kUnit);
  ASSERT_EQ(unpacked->tensors.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(unpacked->tensors[i].dtype(), tensors[i].dtype());
    EXPECT_EQ(unpacked->tensors[i].shape(), tensors[i].shape());
    EXPECT_EQ(unpacked->tensors[i].ToDoubles(), tensors[i].ToDoubles());
  }
}

TEST(PackedTensorsTest, AnEmptyListIsAMessageToo) {
  const auto unpacked = UnpackTensors(Packed({}));
  ASSERT_TRUE(unpacked.ok());
  EXPECT_TRUE(unpacked->tensors.empty());
}

TEST(PackedTensorsTest, ViewsAreWrittenRowByRow) {
  const Tensor matrix = Numbers({2, 3}, DType::kF32);
  const auto unpacked = UnpackTensors(Packed({matrix.Transpose()}));
  ASSERT_TRUE(unpacked.ok());
  EXPECT_THAT(unpacked->tensors[0].shape(), ElementsAre(3, 2));
  EXPECT_THAT(unpacked->tensors[0].ToFloats(), ElementsAre(-2.5, 0.5, -1.5, 1.5, -0.5, 2.5));
}

TEST(PackedTensorsTest, TheBufferIsUsedAgain) {
  std::vector<std::byte> bytes;
  PackTensors(kUnit, {Numbers({100}, DType::kF64)}, bytes);
  const std::byte* const data = bytes.data();
  PackTensors(kUnit, {Numbers({3}, DType::kF32)}, bytes);
  EXPECT_EQ(bytes.data(), data);
  EXPECT_EQ(UnpackTensors(bytes)->tensors[0].elements(), 3);
}

TEST(PackedTensorsTest, RefusesWhatIsCutShortOrChanged) {
  const std::vector<std::byte> good =
      Packed({Numbers({2, 3}, DType::kF32), Numbers({4}, DType::kF64)});
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(UnpackTensors(std::span(good).first(size)).status())) << size;
  }
  std::vector<std::byte> longer = good;
  longer.resize(good.size() + 64);
  EXPECT_TRUE(absl::IsDataLoss(UnpackTensors(longer).status()));
  // Words of the header: magic, count, dtype, rank, a dim; each set to nonsense.
  for (const size_t word : {0, 4, 5, 6, 7, 8}) {
    std::vector<std::byte> bad = good;
    bad[8 * word + 6] = std::byte{0x7f};
    EXPECT_TRUE(absl::IsDataLoss(UnpackTensors(bad).status())) << word;
    bad = good;
    bad[8 * word + 7] = std::byte{0xff};
    EXPECT_TRUE(absl::IsDataLoss(UnpackTensors(bad).status())) << word;
  }
}

}  // namespace
}  // namespace mnemo
