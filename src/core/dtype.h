// The element types of tensors.
#pragma once

#include <cstdint>

namespace mnemo {

enum class DType : uint8_t { kF32, kF64, kBF16, kI32 };
int64_t SizeOf(DType dtype);
const char* Name(DType dtype);
// The dtype that computations on `dtype` are carried out in.
constexpr DType WideType(DType dtype) { return dtype == DType::kBF16 ? DType::kF32 : dtype; }

}  // namespace mnemo
