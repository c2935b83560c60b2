// A list of tensors as one run of bytes: what a hand-off between ranks carries. It says itself what
// it holds, since carries differ in length and shape (none at the first slice, shorter windows near
// the start of a sequence).
//
// Layout, little-endian 8-byte words: magic, micro-batch, slice, layer, count; for each tensor
// dtype, rank, dims; padding to 64 bytes; then each tensor's elements, row-major, padded to 64.
// Both ends run the same build: it is no file format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "src/core/tensor.h"
#include "src/parallel/unit_schedule.h"

namespace mnemo {

// Overwrites `into`, whose capacity is used again. Tensors are defined, on the CPU, of any strides.
void PackTensors(const Unit& unit, const std::vector<Tensor>& tensors,
                 std::vector<std::byte>& into);

struct UnpackedTensors {
  Unit unit;                    // that sent them
  std::vector<Tensor> tensors;  // copies
};
// DataLoss if the bytes are not what PackTensors writes.
absl::StatusOr<UnpackedTensors> UnpackTensors(std::span<const std::byte> bytes);

}  // namespace mnemo
