#include "src/core/tensor.h"

#include <cstring>
#include <utility>

#include "src/core/backend.h"

namespace mnemo {
namespace {

Shape ContiguousStrides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

// Strides that show `shape` with `strides` as `view`, if they exist. Works from the innermost dim
// outwards over runs of dims that behave as one.
bool ViewStrides(const Shape& shape, const Shape& strides, const Shape& view, Shape* out) {
  *out = ContiguousStrides(view);
  if (ElementCount(shape) != ElementCount(view)) return false;
  if (ElementCount(view) == 0) return true;
  absl::InlinedVector<std::pair<int64_t, int64_t>, 6> runs;  // size and stride, innermost first
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 1) continue;
    if (!runs.empty() && strides[i] == runs.back().first * runs.back().second) {
      runs.back().first *= shape[i];
    } else {
      runs.emplace_back(shape[i], strides[i]);
    }
  }
  size_t run = 0;
  for (size_t i = view.size(); i-- > 0;) {
    if (view[i] == 1) continue;
    if (runs[run].first % view[i] != 0) return false;
    (*out)[i] = runs[run].second;
    runs[run].first /= view[i];
    runs[run].second *= view[i];
    if (runs[run].first == 1) ++run;
  }
  return true;
}

int64_t CheckedBytes(const Shape& shape, DType dtype) {
  for (int64_t size : shape) {
    Require(size >= 0, "a tensor cannot have shape {}", shape);
  }
  return ElementCount(shape) * SizeOf(dtype);
}

int NormalizeAxis(int axis, int rank) {
  int normal = axis < 0 ? axis + rank : axis;
  Require(normal >= 0 && normal < rank, "axis {} is outside a tensor of rank {}", axis, rank);
  return normal;
}

Tensor FromHostBytes(const void* values, size_t count, const Shape& shape, DType dtype,
                     Device device) {
  Require(static_cast<int64_t>(count) == ElementCount(shape),
          "{} values given for a tensor of shape {}", count, shape);
  Tensor out = Tensor::Empty(shape, dtype, device);
  if (count > 0) Backend::For(device).CopyFromHost(values, out);
  return out;
}

// Row-major host copy of x, converted to `dtype`, whose C++ type is T.
template <typename T>
std::vector<T> ToHost(const Tensor& x, DType dtype) {
  Tensor source = x.To(Device{}).To(dtype).Contiguous();
  std::vector<T> values(source.elements());
  if (!values.empty()) std::memcpy(values.data(), source.raw(), values.size() * sizeof(T));
  return values;
}

}  // namespace

int64_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF64:
      return 8;
    case DType::kBF16:
      return 2;
  }
  MNEMO_CHECK(false, "dtype {}", static_cast<int>(dtype));
  return 0;
}

const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF64:
      return "f64";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "i32";
  }
  return "?";
}

int64_t ElementCount(const Shape& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

std::string ToString(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Tensor Tensor::Over(const Shape& shape, DType dtype, std::shared_ptr<Storage> storage) {
  Tensor out;
  out.shape_ = shape;
  out.strides_ = ContiguousStrides(shape);
  out.dtype_ = dtype;
  out.storage_ = std::move(storage);
  return out;
}

Tensor Tensor::Empty(const Shape& shape, DType dtype, Device device) {
  return Over(shape, dtype, Backend::For(device).Allocate(CheckedBytes(shape, dtype)));
}

Tensor Tensor::EmptyOnHost(const Shape& shape, DType dtype, Device device) {
  return Over(shape, dtype, Backend::For(device).AllocateOnHost(CheckedBytes(shape, dtype)));
}

Tensor Tensor::Full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor out = Empty(shape, dtype, device);
  Backend::For(device).Fill(out, value);
  return out;
}

Tensor Tensor::FromHost(std::span<const double> values, const Shape& shape, DType dtype,
                        Device device) {
  return FromHostBytes(values.data(), values.size(), shape, DType::kF64, {}).To(dtype).To(device);
}

Tensor Tensor::FromHost(std::span<const float> values, const Shape& shape, DType dtype,
                        Device device) {
  return FromHostBytes(values.data(), values.size(), shape, DType::kF32, {}).To(dtype).To(device);
}

Tensor Tensor::FromHost(std::span<const int32_t> values, const Shape& shape, Device device) {
  return FromHostBytes(values.data(), values.size(), shape, DType::kI32, device);
}

int64_t Tensor::dim(int axis) const { return shape_[NormalizeAxis(axis, rank())]; }

bool Tensor::contiguous() const {
  int64_t stride = 1;
  for (size_t i = shape_.size(); i-- > 0;) {
    if (shape_[i] == 0) return true;
    if (shape_[i] != 1 && strides_[i] != stride) return false;
    stride *= shape_[i];
  }
  return true;
}

Tensor Tensor::Permute(std::span<const int> order) const {
  Require(static_cast<int>(order.size()) == rank(),
          "a permutation of {} axes does not fit a tensor of shape {}", order.size(), shape_);
  Tensor out = *this;
  uint64_t seen = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    int axis = NormalizeAxis(order[i], rank());
    Require((seen >> axis & 1) == 0, "axis {} appears twice in a permutation", order[i]);
    seen |= uint64_t{1} << axis;
    out.shape_[i] = shape_[axis];
    out.strides_[i] = strides_[axis];
  }
  return out;
}

Tensor Tensor::Transpose() const {
  Require(rank() >= 2, "a tensor of shape {} has no matrix to transpose", shape_);
  Tensor out = *this;
  std::swap(out.shape_[rank() - 1], out.shape_[rank() - 2]);
  std::swap(out.strides_[rank() - 1], out.strides_[rank() - 2]);
  return out;
}

Tensor Tensor::Slice(int axis, int64_t begin, int64_t end) const {
  axis = NormalizeAxis(axis, rank());
  Require(begin >= 0 && begin <= end && end <= shape_[axis],
          "slice [{}, {}) of axis {} is outside a tensor of shape {}", begin, end, axis, shape_);
  Tensor out = *this;
  out.shape_[axis] = end - begin;
  out.offset_ += begin * strides_[axis];
  return out;
}

Tensor Tensor::BroadcastTo(const Shape& shape) const {
  Require(shape.size() >= shape_.size(), "cannot broadcast shape {} to {}", shape_, shape);
  Tensor out = *this;
  out.shape_ = shape;
  out.strides_.assign(shape.size(), 0);
  size_t added = shape.size() - shape_.size();
  for (size_t i = 0; i < shape_.size(); ++i) {
    int64_t size = shape[i + added];
    Require(shape_[i] == size || shape_[i] == 1, "cannot broadcast shape {} to {}", shape_, shape);
    out.strides_[i + added] = shape_[i] == size ? strides_[i] : 0;
  }
  return out;
}

bool Tensor::CanView(const Shape& shape) const {
  Shape strides;
  return ViewStrides(shape_, strides_, shape, &strides);
}

Tensor Tensor::View(const Shape& shape) const {
  Tensor out = *this;
  Require(ViewStrides(shape_, strides_, shape, &out.strides_),
          "a tensor of shape {} and strides {} cannot be viewed as {} without a copy", shape_,
          strides_, shape);
  out.shape_ = shape;
  return out;
}

bool Tensor::fills_storage() const {
  for (int axis = 0; axis < rank(); ++axis) {
    if (shape_[axis] > 1 && strides_[axis] == 0) return false;
  }
  return bytes() == storage_->bytes();
}

Tensor Tensor::Contiguous() const { return contiguous() ? *this : Clone(); }

Tensor Tensor::Clone() const {
  Tensor out = Empty(shape_, dtype_, device());
  Backend::For(device()).Copy(*this, out);
  return out;
}

Tensor Tensor::Reshape(const Shape& shape) const {
  Shape target = shape;
  int64_t known = 1;
  int64_t* unknown = nullptr;
  for (int64_t& size : target) {
    if (size == -1 && unknown == nullptr) {
      unknown = &size;
    } else {
      known *= size;
    }
  }
  if (unknown != nullptr && known > 0) *unknown = elements() / known;
  Require((unknown == nullptr || known > 0) && ElementCount(target) == elements(),
          "a tensor of shape {} cannot be reshaped to {}", shape_, shape);
  return CanView(target) ? View(target) : Clone().View(target);
}

Tensor Tensor::To(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor out = Empty(shape_, dtype, device());
  Backend::For(device()).Copy(*this, out);
  return out;
}

Tensor Tensor::To(Device target) const {
  if (target == device()) return *this;
  if (target.type != DeviceType::kCpu && device().type != DeviceType::kCpu) {
    return To(Device{}).To(target);
  }
  Tensor source = Contiguous();
  Tensor out = Empty(shape_, dtype_, target);
  if (elements() == 0) return out;
  if (target.type == DeviceType::kCpu) {
    Backend::For(device()).CopyToHost(source, out.raw());
  } else {
    Backend::For(target).CopyFromHost(source.raw(), out);
  }
  return out;
}

std::vector<double> Tensor::ToDoubles() const { return ToHost<double>(*this, DType::kF64); }
std::vector<float> Tensor::ToFloats() const { return ToHost<float>(*this, DType::kF32); }
std::vector<int32_t> Tensor::ToInts() const { return ToHost<int32_t>(*this, DType::kI32); }

double Tensor::Item() const {
  Require(elements() == 1, "a tensor of shape {} is not one value", shape_);
  return ToDoubles()[0];
}

}  // namespace mnemo
