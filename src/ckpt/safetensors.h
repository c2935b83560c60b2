// Safetensors files: named tensors behind a JSON header, as other tools read and write them.
//
// Layout: the header's length as a little-endian u64, the header (a JSON object: for each tensor
// its dtype, shape and byte range; "__metadata__": strings), the tensors' bytes, row-major,
// little-endian, without gaps. Files written here also carry an XXH3-128 digest of every tensor in
// the metadata ("xxh3_128/NAME"); reading checks it where it is there.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "src/ckpt/box.h"
#include "src/core/digest.h"
#include "src/core/file_system.h"
#include "src/core/tensor.h"

namespace mnemo {

struct NamedTensor {
  std::string name;
  Tensor value;
};

// A tensor that comes to memory when it is its turn to be written.
struct StreamedTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  // Called twice, for its digest and for its bytes, with the same result: on any device, of this
  // dtype and shape.
  std::function<absl::StatusOr<Tensor>()> read;
};
std::vector<StreamedTensor> Streamed(std::span<const NamedTensor> tensors);

// Writes to `path + ".tmp"`, syncs, renames: `path` holds what it held before or the whole file.
// One tensor at a time is held, on the host. Returns the digest of the header, which holds those of
// the tensors. InvalidArgument for names that are empty, given twice or "__metadata__".
absl::StatusOr<Digest> WriteSafetensors(FileSystem& fs, const std::string& path,
                                        std::span<const StreamedTensor> tensors,
                                        const std::map<std::string, std::string>& metadata);

struct SafetensorsEntry {
  DType dtype = DType::kF32;
  Shape shape;
  int64_t offset = 0;  // in the file
  int64_t bytes = 0;
  std::string digest;  // XXH3-128 in hex; empty if the file has none
};

// Immutable and thread-safe.
class SafetensorsReader {
 public:
  // Reads and checks the header: its length, that it is JSON of the right form, that the tensors'
  // ranges fit their shapes and cover the file without gaps or overlaps. DataLoss, naming the file
  // and the fault, if not.
  static absl::StatusOr<SafetensorsReader> Open(FileSystem& fs, const std::string& path);

  const std::map<std::string, SafetensorsEntry, std::less<>>& entries() const { return entries_; }
  // Without the digests.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const Digest& header_digest() const { return header_digest_; }

  // A part of a tensor, in host memory. All of the tensor is read, as its digest is checked, but no
  // more than the part and a block is held. NotFound without such a tensor, InvalidArgument if the
  // box does not lie in it.
  absl::StatusOr<Tensor> ReadBox(std::string_view name, const Box& box) const;
  absl::StatusOr<Tensor> Read(std::string_view name) const;  // all of it

 private:
  SafetensorsReader(FileSystem& fs, std::string path) : fs_(&fs), path_(std::move(path)) {}

  FileSystem* fs_;
  std::string path_;
  std::map<std::string, SafetensorsEntry, std::less<>> entries_;
  std::map<std::string, std::string> metadata_;
  Digest header_digest_;
};

}  // namespace mnemo
