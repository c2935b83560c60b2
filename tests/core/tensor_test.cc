#include "src/core/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// 0, 1, 2, ... in row-major order.
Tensor Counting(const Shape& shape, DType dtype = DType::kF32) {
  std::vector<double> values(ElementCount(shape));
  std::iota(values.begin(), values.end(), 0);
  return Tensor::FromHost(values, shape, dtype);
}

std::string ErrorOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const TensorError& error) {
    EXPECT_EQ(error.status().code(), absl::StatusCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

TEST(Tensor, DescribesItself) {
  Tensor none;
  EXPECT_FALSE(none.defined());
  Tensor x = Counting({2, 3, 4}, DType::kF64);
  EXPECT_TRUE(x.defined());
  EXPECT_EQ(x.rank(), 3);
  EXPECT_EQ(x.dim(-1), 4);
  EXPECT_EQ(x.dim(0), 2);
  EXPECT_EQ(x.elements(), 24);
  EXPECT_EQ(x.bytes(), 192);
  EXPECT_EQ(x.dtype(), DType::kF64);
  EXPECT_EQ(x.device(), Device{});
  EXPECT_THAT(x.strides(), ElementsAre(12, 4, 1));
  EXPECT_EQ(ToString(x.shape()), "[2, 3, 4]");
  EXPECT_STREQ(Name(DType::kBF16), "bf16");
  EXPECT_EQ(SizeOf(DType::kBF16), 2);
  EXPECT_THAT(ErrorOf([&] { x.dim(3); }), HasSubstr("axis 3"));
}

TEST(Tensor, ScalarsAndEmpties) {
  Tensor scalar = Tensor::Full({}, 2.5, DType::kF32);
  EXPECT_EQ(scalar.elements(), 1);
  EXPECT_EQ(scalar.Item(), 2.5);
  Tensor empty = Tensor::Zeros({3, 0}, DType::kF32);
  EXPECT_TRUE(empty.contiguous());
  EXPECT_THAT(empty.ToFloats(), ElementsAre());
  EXPECT_EQ(empty.Clone().shape(), empty.shape());
  EXPECT_EQ(empty.View({0, 7}).dim(1), 7);
  EXPECT_THAT(ErrorOf([&] { empty.Item(); }), HasSubstr("[3, 0]"));
  EXPECT_THAT(ErrorOf([] { Tensor::Empty({2, -1}, DType::kF32); }), HasSubstr("[2, -1]"));
}

TEST(Tensor, CopiesShareStorage) {
  Tensor a = Counting({4});
  EXPECT_TRUE(a.sole_owner());
  Tensor b = a;
  EXPECT_FALSE(a.sole_owner());
  b.data<float>()[2] = 9;
  EXPECT_THAT(a.ToFloats(), ElementsAre(0, 1, 9, 3));
  Tensor c = a.Clone();
  EXPECT_TRUE(c.sole_owner());
  c.data<float>()[0] = 7;
  EXPECT_EQ(a.ToFloats()[0], 0);
}

TEST(Tensor, PermuteAndTranspose) {
  Tensor x = Counting({2, 3});
  EXPECT_FALSE(x.Transpose().contiguous());
  EXPECT_THAT(x.Transpose().ToFloats(), ElementsAre(0, 3, 1, 4, 2, 5));
  const int order[] = {2, 0, 1};
  Tensor y = Counting({2, 3, 4}).Permute(order);
  EXPECT_THAT(y.shape(), ElementsAre(4, 2, 3));
  EXPECT_THAT(y.strides(), ElementsAre(1, 12, 4));
  EXPECT_EQ(y.Contiguous().ToFloats(), y.ToFloats());
  EXPECT_EQ(y.ToFloats()[1 * 6 + 1 * 3 + 2], 12 + 2 * 4 + 1);
  const int twice[] = {0, 0, 1}, few[] = {0, 1};
  EXPECT_THAT(ErrorOf([&] { y.Permute(twice); }), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf([&] { y.Permute(few); }), HasSubstr("[4, 2, 3]"));
  EXPECT_THAT(ErrorOf([] { Counting({3}).Transpose(); }), HasSubstr("[3]"));
}

TEST(Tensor, Slice) {
  Tensor x = Counting({3, 4}).Slice(-1, 1, 3);
  EXPECT_THAT(x.ToFloats(), ElementsAre(1, 2, 5, 6, 9, 10));
  EXPECT_THAT(x.Slice(0, 2, 3).ToFloats(), ElementsAre(9, 10));
  EXPECT_EQ(*x.Slice(0, 2, 3).data<float>(), 9);
  EXPECT_EQ(x.Slice(0, 1, 1).elements(), 0);
  EXPECT_THAT(ErrorOf([&] { x.Slice(0, 2, 4); }), HasSubstr("[2, 4)"));
  EXPECT_THAT(ErrorOf([&] { x.Slice(1, 2, 1); }), HasSubstr("[2, 1)"));
  EXPECT_THAT(ErrorOf([&] { x.Slice(2, 0, 1); }), HasSubstr("axis 2"));
}

TEST(Tensor, Broadcast) {
  Tensor x = Counting({3, 1}).BroadcastTo({2, 3, 2});
  EXPECT_THAT(x.strides(), ElementsAre(0, 1, 0));
  EXPECT_THAT(x.ToFloats(), ElementsAre(0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2));
  EXPECT_THAT(ErrorOf([&] { x.BroadcastTo({2, 4, 2}); }), HasSubstr("[2, 4, 2]"));
  EXPECT_THAT(ErrorOf([&] { x.BroadcastTo({3, 2}); }), HasSubstr("[3, 2]"));
}

TEST(Tensor, ViewKeepsStridesWhereItCan) {
  Tensor x = Counting({4, 6});
  EXPECT_EQ(x.View({2, 2, 3, 2}).ToFloats(), x.ToFloats());
  Tensor columns = x.Slice(1, 0, 4);
  EXPECT_TRUE(columns.CanView({4, 2, 2}));
  EXPECT_TRUE(columns.CanView({2, 2, 1, 4}));
  EXPECT_FALSE(columns.CanView({16}));
  EXPECT_EQ(columns.View({2, 2, 2, 2}).ToFloats(), columns.ToFloats());
  EXPECT_FALSE(x.Transpose().CanView({24}));
  EXPECT_EQ(x.Transpose().View({3, 2, 4}).ToFloats(), x.Transpose().ToFloats());
  Tensor repeated = Counting({1, 2}).BroadcastTo({6, 2});
  EXPECT_TRUE(repeated.CanView({2, 3, 2}));
  EXPECT_FALSE(repeated.CanView({12}));
  EXPECT_FALSE(x.CanView({5, 5}));
  EXPECT_THAT(ErrorOf([&] { columns.View({16}); }), HasSubstr("[4, 4]"));
}

TEST(Tensor, ReshapeCopiesOnlyIfItMust) {
  Tensor x = Counting({4, 6});
  EXPECT_EQ(x.Reshape({-1, 8}).raw(), x.raw());
  EXPECT_THAT(x.Reshape({-1, 8}).shape(), ElementsAre(3, 8));
  Tensor flat = x.Transpose().Reshape({-1});
  EXPECT_NE(flat.raw(), x.raw());
  EXPECT_EQ(flat.ToFloats(), x.Transpose().ToFloats());
  EXPECT_THAT(ErrorOf([&] { x.Reshape({5, -1}); }), HasSubstr("[5, -1]"));
  EXPECT_THAT(ErrorOf([&] { x.Reshape({-1, -1}); }), HasSubstr("[-1, -1]"));
  EXPECT_EQ(x.Contiguous().raw(), x.raw());
}

TEST(Tensor, HostRoundTrips) {
  std::vector<double> values = {0.5, -1.25, 3};
  for (DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    EXPECT_EQ(Tensor::FromHost(values, {3}, dtype).ToDoubles(), values);
  }
  std::vector<float> floats = {0.1f, 2.5f};
  EXPECT_EQ(Tensor::FromHost(floats, {2}, DType::kF64).ToFloats(), floats);
  std::vector<int32_t> ints = {5, -7};
  EXPECT_EQ(Tensor::FromHost(ints, {2}).ToInts(), ints);
  Tensor x = Tensor::FromHost(values, {3}, DType::kF32);
  EXPECT_EQ(x.To(DType::kF32).raw(), x.raw());
  EXPECT_THAT(ErrorOf([&] { Tensor::FromHost(values, {4}, DType::kF32); }), HasSubstr("3 values"));
}

TEST(Device, AbsentGpuIsAnError) {
  EXPECT_THROW(Tensor::Empty({1}, DType::kF32, Device{DeviceType::kCuda, 63}), TensorError);
}

}  // namespace
}  // namespace mnemo
