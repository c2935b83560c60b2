// Tensors: typed, strided views of shared storage on a device.
//
// A Tensor is a value: copying one shares its storage, nothing is copied or computed. Kernels are
// in backend.h; derivatives in tape.h and ops.h. Offsets are 64-bit everywhere.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "src/core/dtype.h"
#include "src/core/status.h"

namespace mnemo {

enum class DeviceType : uint8_t { kCpu, kCuda };
struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

using Shape = absl::InlinedVector<int64_t, 6>;
int64_t ElementCount(const Shape& shape);
std::string ToString(const Shape& shape);

// A block of device memory; freed, through the backend that made it, with its last Tensor.
class Storage {
 public:
  virtual ~Storage() = default;
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 protected:
  Storage(void* data, int64_t bytes, Device device) : data_(data), bytes_(bytes), device_(device) {}

 private:
  void* data_;
  int64_t bytes_;
  Device device_;
};

class Tensor {
 public:
  Tensor() = default;  // undefined: no storage; defined() is false

  // Uninitialised memory, contiguous (last dim fastest).
  static Tensor Empty(const Shape& shape, DType dtype, Device device = {});
  // The same in host memory that `device` copies to fastest (Backend::AllocateOnHost).
  static Tensor EmptyOnHost(const Shape& shape, DType dtype, Device device);
  static Tensor Full(const Shape& shape, double value, DType dtype, Device device = {});
  static Tensor Zeros(const Shape& shape, DType dtype, Device device = {}) {
    return Full(shape, 0, dtype, device);
  }
  // Copies host values, converted to dtype.
  static Tensor FromHost(std::span<const double> values, const Shape& shape, DType dtype,
                         Device device = {});
  static Tensor FromHost(std::span<const float> values, const Shape& shape, DType dtype,
                         Device device = {});
  static Tensor FromHost(std::span<const int32_t> values, const Shape& shape, Device device = {});

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }  // in elements; 0 for broadcast dims
  int rank() const { return static_cast<int>(shape_.size()); }
  int64_t dim(int axis) const;  // a negative axis counts from the end
  int64_t elements() const { return ElementCount(shape_); }
  int64_t bytes() const { return elements() * SizeOf(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_->device(); }
  bool contiguous() const;
  // True if nothing else shares the storage, so that a kernel may overwrite it.
  bool sole_owner() const { return storage_.use_count() == 1; }
  // True if it shows all of its storage, in any order of the dims: keeping it keeps nothing else.
  bool fills_storage() const;
  // The same elements of the same storage.
  bool same_view(const Tensor& other) const {
    return raw() == other.raw() && shape() == other.shape() && strides() == other.strides();
  }

  // Typed pointer to the first element (device memory on a GPU). T must match dtype.
  template <typename T>
  T* data() const {
    return static_cast<T*>(raw());
  }
  void* raw() const { return static_cast<char*>(storage_->data()) + offset_ * SizeOf(dtype_); }

  // Views: no copying. They throw TensorError if the shape does not allow it.
  Tensor Permute(std::span<const int> order) const;
  Tensor Transpose() const;  // swaps the last two dims
  Tensor Slice(int axis, int64_t begin, int64_t end) const;
  Tensor BroadcastTo(const Shape& shape) const;  // trailing dims align; size 1 repeats
  bool CanView(const Shape& shape) const;        // whether Reshape needs no copy
  Tensor View(const Shape& shape) const;         // requires CanView

  // Copies.
  Tensor Contiguous() const;                 // itself if contiguous already
  Tensor Clone() const;                      // always fresh storage
  Tensor Reshape(const Shape& shape) const;  // a view if it can be; one dim may be -1
  Tensor To(DType dtype) const;              // itself if the dtype is the same
  Tensor To(Device device) const;

  // Host copies, converted; row-major order.
  std::vector<double> ToDoubles() const;
  std::vector<float> ToFloats() const;
  std::vector<int32_t> ToInts() const;
  double Item() const;  // the value of a one-element tensor

 private:
  friend class Backend;
  static Tensor Over(const Shape& shape, DType dtype, std::shared_ptr<Storage> storage);

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // in elements
  Shape shape_, strides_;
  DType dtype_ = DType::kF32;
};

}  // namespace mnemo

// A Shape in a message, as ToString writes it.
template <>
struct fmt::formatter<mnemo::Shape> : fmt::formatter<fmt::string_view> {
  auto format(const mnemo::Shape& shape, fmt::format_context& context) const {
    return fmt::formatter<fmt::string_view>::format(mnemo::ToString(shape), context);
  }
};
