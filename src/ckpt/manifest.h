// The manifest of a checkpoint: its bytes, and the rules that it must keep before anything in it is
// believed. docs/checkpoint_format.md states both.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "mnemo/v1/checkpoint.pb.h"
#include "src/ckpt/box.h"
#include "src/core/digest.h"
#include "src/core/file_system.h"
#include "src/core/tensor.h"

namespace mnemo {

inline constexpr int kCheckpointFormatVersion = 1;
inline constexpr std::string_view kManifestName = "manifest.pb";
inline constexpr int kMaxTensorRank = 8;

v1::TensorDType ToProto(DType dtype);
Shape ShapeOf(const v1::CheckpointTensor& tensor);
// The following require a manifest that has passed CheckManifest.
DType DTypeOf(const v1::CheckpointTensor& tensor);
int64_t BytesOf(const v1::CheckpointTensor& tensor);  // of its elements
Box BoxOf(const v1::CheckpointPiece& piece);

std::string ToBytes(const Digest& digest);  // 16
// Whether `bytes`, of a field xxh3_128, is this digest.
bool Matches(std::string_view bytes, const Digest& digest);

// The serialised message, then 8 bytes "mnemckpt", then the digest of all that.
std::string EncodeManifest(const v1::CheckpointManifest& manifest);

// The reverse. Errors begin with `name`: DataLoss if the bytes are not whole, FailedPrecondition if
// they are of another format version. Checks none of the rules below.
absl::StatusOr<v1::CheckpointManifest> DecodeManifest(std::string_view bytes,
                                                      const std::string& name);

// The rules: files have plain names, each its own; pieces lie in their files and do not overlap
// there; the pieces of a tensor lie in it, are disjoint and cover it; sizes and digests have the
// lengths that they must have. DataLoss beginning with `name`, if not.
absl::Status CheckManifest(const v1::CheckpointManifest& manifest, const std::string& name);

// Reads, decodes and checks the manifest in `directory`. NotFound if there is none.
absl::StatusOr<v1::CheckpointManifest> ReadManifest(FileSystem& fs, const std::string& directory);

// Whether every file of the manifest is in `directory` and has its length: DataLoss, naming the
// file, if not. Reads no contents.
absl::Status CheckFileLengths(FileSystem& fs, const std::string& directory,
                              const v1::CheckpointManifest& manifest);

}  // namespace mnemo
