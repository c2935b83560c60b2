// HDF5 files behind Status and RAII. The library is not thread-safe: every call here takes one
// process-wide lock, so that files may be used from any thread. Errors carry the path and the
// library's own words.
//
// New files use the format of HDF5 1.10, whose metadata is checksummed by the library, and record
// no times, so that equal contents give equal bytes. Datasets are contiguous. Files are opened for
// reading without locking, so that read-only and network file systems work; HDF5's environment
// variable HDF5_USE_FILE_LOCKING has precedence over this.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mnemo {

enum class Hdf5Type { kUint8, kUint16, kUint32, kUint64, kFloat32 };  // little-endian
int64_t SizeOf(Hdf5Type type);                                        // bytes

// Owns one identifier of the library; closing errors are ignored (Hdf5File::Close reports them).
class Hdf5Handle {
 public:
  using Closer = int (*)(int64_t);
  Hdf5Handle() = default;
  Hdf5Handle(int64_t id, Closer closer) : id_(id), closer_(closer) {}
  ~Hdf5Handle() { Reset(); }
  Hdf5Handle(Hdf5Handle&& other) noexcept { *this = std::move(other); }
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept;
  int64_t id() const { return id_; }
  bool valid() const { return id_ >= 0; }
  bool Reset();  // false if the library could not close it

 private:
  int64_t id_ = -1;
  Closer closer_ = nullptr;
};

// A dataset of an open file, which must outlive it.
class Hdf5Dataset {
 public:
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t rows() const { return shape_[0]; }

  // Rows [first, first + count) of the first dim, whole in the others, as `type` given at creation
  // or opening. InvalidArgument if they lie outside.
  absl::Status Read(int64_t first, int64_t count, void* out) const;
  absl::Status Write(int64_t first, int64_t count, const void* values);

 private:
  friend class Hdf5File;
  absl::Status Transfer(int64_t first, int64_t count, void* out, const void* in) const;
  Hdf5Handle handle_;
  Hdf5Type type_ = Hdf5Type::kUint8;
  std::vector<int64_t> shape_;
  std::string where_;  // "FILE: dataset NAME", for messages
};

class Hdf5File {
 public:
  static absl::StatusOr<Hdf5File> OpenReadOnly(const std::string& path);
  static absl::StatusOr<Hdf5File> Create(const std::string& path);  // replaces a file of that name

  // Attributes of the root group. Reading: DataLoss if absent or of another type.
  absl::Status WriteAttribute(const std::string& name, uint64_t value);
  absl::Status WriteAttribute(const std::string& name, const std::string& value);
  absl::StatusOr<uint64_t> ReadUint64(const std::string& name) const;
  absl::StatusOr<std::string> ReadString(const std::string& name) const;

  // Dims may be 0. Opening: DataLoss if absent, or if type or rank differ.
  absl::StatusOr<Hdf5Dataset> CreateDataset(const std::string& name, Hdf5Type type,
                                            const std::vector<int64_t>& shape);
  absl::StatusOr<Hdf5Dataset> OpenDataset(const std::string& name, Hdf5Type type, int rank) const;

  // Writes what is pending and closes: the file is whole only if this returns OK. Datasets must be
  // gone. Without it the destructor closes and keeps silent. Syncing is up to the caller.
  absl::Status Close();
  const std::string& path() const { return path_; }

 private:
  Hdf5Handle file_;
  std::string path_;
};

}  // namespace mnemo
