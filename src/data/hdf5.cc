#include "src/data/hdf5.h"

#include <hdf5.h>

#include <cstdio>
#include <mutex>
#include <utility>

#include "src/core/status.h"

namespace mnemo {
namespace {

static_assert(sizeof(hid_t) == sizeof(int64_t));

// Recursive, as handles close themselves inside calls that hold it. Never destroyed: handles in
// static objects may close late.
class Hdf5Lock {
 public:
  Hdf5Lock() : lock_(Mutex()) {
    static const bool quiet = [] {  // errors are reported through Status, not printed
      // A file whose closing failed (a full disk) stays half open inside the library, and its own
      // clean-up at exit would crash on it. Our handles close themselves.
      H5dont_atexit();
      // A file that could not be closed, on a full disk, makes the library crash when it cleans up
      // at exit. There is nothing to clean up: files are closed by their owners.
      H5dont_atexit();
      H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
      return true;
    }();
    (void)quiet;
  }

 private:
  static std::recursive_mutex& Mutex() {
    static auto* mutex = new std::recursive_mutex;
    return *mutex;
  }
  std::lock_guard<std::recursive_mutex> lock_;
};

// The innermost message of the library's error stack says what the system call said.
std::string LibraryMessage() {
  std::string message;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned depth, const H5E_error2_t* error, void* out) -> herr_t {
        if (depth == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &message);
  H5Eclear2(H5E_DEFAULT);
  return message.empty() ? "no message from HDF5" : "HDF5: " + message;
}

template <herr_t (*close)(hid_t)>
Hdf5Handle Own(hid_t id) {
  return Hdf5Handle(id, [](int64_t value) -> int { return close(value); });
}

hid_t TypeId(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::kUint8:
      return H5T_STD_U8LE;
    case Hdf5Type::kUint16:
      return H5T_STD_U16LE;
    case Hdf5Type::kUint32:
      return H5T_STD_U32LE;
    case Hdf5Type::kUint64:
      return H5T_STD_U64LE;
    case Hdf5Type::kFloat32:
      return H5T_IEEE_F32LE;
  }
  MNEMO_CHECK(false, "unknown type");
  return -1;
}

// Properties of a new object: no times, so that equal contents give equal bytes.
Hdf5Handle Timeless(hid_t property_class) {
  Hdf5Handle properties = Own<H5Pclose>(H5Pcreate(property_class));
  if (properties.valid()) H5Pset_obj_track_times(properties.id(), false);
  return properties;
}

}  // namespace

int64_t SizeOf(Hdf5Type type) {
  Hdf5Lock lock;
  return static_cast<int64_t>(H5Tget_size(TypeId(type)));
}

Hdf5Handle& Hdf5Handle::operator=(Hdf5Handle&& other) noexcept {
  if (this != &other) {
    Reset();
    id_ = std::exchange(other.id_, -1);
    closer_ = other.closer_;
  }
  return *this;
}

bool Hdf5Handle::Reset() {
  if (id_ < 0) return true;
  Hdf5Lock lock;
  return closer_(std::exchange(id_, -1)) >= 0;
}

absl::Status Hdf5Dataset::Read(int64_t first, int64_t count, void* out) const {
  return Transfer(first, count, out, nullptr);
}

absl::Status Hdf5Dataset::Write(int64_t first, int64_t count, const void* values) {
  return Transfer(first, count, nullptr, values);
}

absl::Status Hdf5Dataset::Transfer(int64_t first, int64_t count, void* out, const void* in) const {
  if (first < 0 || count < 0 || first > rows() - count) {
    return InvalidArgument("{}: rows [{}, {}) lie outside its {} rows", where_, first,
                           first + count, rows());
  }
  if (count == 0) return absl::OkStatus();
  Hdf5Lock lock;
  std::vector<hsize_t> start(shape_.size(), 0);
  std::vector<hsize_t> extent(shape_.begin(), shape_.end());
  start[0] = static_cast<hsize_t>(first);
  extent[0] = static_cast<hsize_t>(count);
  const int rank = static_cast<int>(shape_.size());
  Hdf5Handle memory = Own<H5Sclose>(H5Screate_simple(rank, extent.data(), nullptr));
  Hdf5Handle space = Own<H5Sclose>(H5Dget_space(handle_.id()));
  herr_t result = -1;
  if (memory.valid() && space.valid() &&
      H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, start.data(), nullptr, extent.data(),
                          nullptr) >= 0) {
    result = out != nullptr
                 ? H5Dread(handle_.id(), TypeId(type_), memory.id(), space.id(), H5P_DEFAULT, out)
                 : H5Dwrite(handle_.id(), TypeId(type_), memory.id(), space.id(), H5P_DEFAULT, in);
  }
  if (result >= 0) return absl::OkStatus();
  return DataLoss("cannot {} rows [{}, {}) of {}: {}", out != nullptr ? "read" : "write", first,
                  first + count, where_, LibraryMessage());
}

absl::StatusOr<Hdf5File> Hdf5File::OpenReadOnly(const std::string& path) {
  // The system's reason is clearer than the library's when the file cannot be opened at all.
  std::FILE* probe = std::fopen(path.c_str(), "rb");
  if (probe == nullptr) return NotFound("cannot open {}: {}", path, std::strerror(errno));
  std::fclose(probe);
  Hdf5Lock lock;
  Hdf5Handle access = Own<H5Pclose>(H5Pcreate(H5P_FILE_ACCESS));
  Hdf5File file;
  if (access.valid() && H5Pset_file_locking(access.id(), false, true) >= 0) {
    file.file_ = Own<H5Fclose>(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()));
  }
  if (!file.file_.valid()) {
    return DataLoss("{} is not a readable HDF5 file (cut short or damaged?): {}", path,
                    LibraryMessage());
  }
  file.path_ = path;
  return file;
}

absl::StatusOr<Hdf5File> Hdf5File::Create(const std::string& path) {
  // As above.
  std::FILE* probe = std::fopen(path.c_str(), "ab");
  if (probe == nullptr) {
    return absl::UnavailableError(fmt::format("cannot create {}: {}", path, std::strerror(errno)));
  }
  std::fclose(probe);
  Hdf5Lock lock;
  Hdf5Handle access = Own<H5Pclose>(H5Pcreate(H5P_FILE_ACCESS));
  Hdf5Handle creation = Timeless(H5P_FILE_CREATE);
  Hdf5File file;
  if (access.valid() && creation.valid() &&
      H5Pset_libver_bounds(access.id(), H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
      H5Pset_file_locking(access.id(), false, true) >= 0) {
    file.file_ = Own<H5Fclose>(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.id(), access.id()));
  }
  if (!file.file_.valid()) {
    return absl::UnavailableError(
        fmt::format("cannot create the HDF5 file {}: {}", path, LibraryMessage()));
  }
  file.path_ = path;
  return file;
}

absl::Status Hdf5File::WriteAttribute(const std::string& name, uint64_t value) {
  Hdf5Lock lock;
  Hdf5Handle space = Own<H5Sclose>(H5Screate(H5S_SCALAR));
  Hdf5Handle attribute = Own<H5Aclose>(
      H5Acreate2(file_.id(), name.c_str(), H5T_STD_U64LE, space.id(), H5P_DEFAULT, H5P_DEFAULT));
  if (attribute.valid() && H5Awrite(attribute.id(), H5T_NATIVE_UINT64, &value) >= 0) {
    return absl::OkStatus();
  }
  return DataLoss("cannot write attribute {} of {}: {}", name, path_, LibraryMessage());
}

absl::Status Hdf5File::WriteAttribute(const std::string& name, const std::string& value) {
  Hdf5Lock lock;
  Hdf5Handle space = Own<H5Sclose>(H5Screate(H5S_SCALAR));
  Hdf5Handle type = Own<H5Tclose>(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.id(), value.size() + 1);  // one more than needed: size 0 is not allowed
  Hdf5Handle attribute = Own<H5Aclose>(
      H5Acreate2(file_.id(), name.c_str(), type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT));
  if (attribute.valid() && H5Awrite(attribute.id(), type.id(), value.c_str()) >= 0) {
    return absl::OkStatus();
  }
  return DataLoss("cannot write attribute {} of {}: {}", name, path_, LibraryMessage());
}

absl::StatusOr<uint64_t> Hdf5File::ReadUint64(const std::string& name) const {
  Hdf5Lock lock;
  Hdf5Handle attribute = Own<H5Aclose>(H5Aopen(file_.id(), name.c_str(), H5P_DEFAULT));
  uint64_t value = 0;
  if (attribute.valid()) {
    Hdf5Handle type = Own<H5Tclose>(H5Aget_type(attribute.id()));
    Hdf5Handle space = Own<H5Sclose>(H5Aget_space(attribute.id()));
    if (H5Tget_class(type.id()) == H5T_INTEGER && H5Sget_simple_extent_npoints(space.id()) == 1 &&
        H5Aread(attribute.id(), H5T_NATIVE_UINT64, &value) >= 0) {
      return value;
    }
  }
  return DataLoss("{} has no integer attribute {}: {}", path_, name, LibraryMessage());
}

absl::StatusOr<std::string> Hdf5File::ReadString(const std::string& name) const {
  Hdf5Lock lock;
  Hdf5Handle attribute = Own<H5Aclose>(H5Aopen(file_.id(), name.c_str(), H5P_DEFAULT));
  if (attribute.valid()) {
    Hdf5Handle type = Own<H5Tclose>(H5Aget_type(attribute.id()));
    Hdf5Handle space = Own<H5Sclose>(H5Aget_space(attribute.id()));
    if (H5Tget_class(type.id()) == H5T_STRING && H5Tis_variable_str(type.id()) == 0 &&
        H5Sget_simple_extent_npoints(space.id()) == 1) {
      std::string value(H5Tget_size(type.id()), '\0');
      if (H5Aread(attribute.id(), type.id(), value.data()) >= 0) return value.c_str();
    }
  }
  return DataLoss("{} has no text attribute {}: {}", path_, name, LibraryMessage());
}

absl::StatusOr<Hdf5Dataset> Hdf5File::CreateDataset(const std::string& name, Hdf5Type type,
                                                    const std::vector<int64_t>& shape) {
  Hdf5Lock lock;
  Hdf5Dataset dataset;
  dataset.type_ = type;
  dataset.shape_ = shape;
  dataset.where_ = fmt::format("{}: dataset {}", path_, name);
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  Hdf5Handle space =
      Own<H5Sclose>(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
  Hdf5Handle creation = Timeless(H5P_DATASET_CREATE);
  if (space.valid() && creation.valid() &&
      H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER) >= 0) {
    dataset.handle_ = Own<H5Dclose>(H5Dcreate2(file_.id(), name.c_str(), TypeId(type), space.id(),
                                               H5P_DEFAULT, creation.id(), H5P_DEFAULT));
  }
  if (dataset.handle_.valid()) return dataset;
  return DataLoss("cannot create dataset {} in {}: {}", name, path_, LibraryMessage());
}

absl::StatusOr<Hdf5Dataset> Hdf5File::OpenDataset(const std::string& name, Hdf5Type type,
                                                  int rank) const {
  Hdf5Lock lock;
  Hdf5Dataset dataset;
  dataset.type_ = type;
  dataset.where_ = fmt::format("{}: dataset {}", path_, name);
  dataset.handle_ = Own<H5Dclose>(H5Dopen2(file_.id(), name.c_str(), H5P_DEFAULT));
  if (!dataset.handle_.valid()) {
    return DataLoss("{} has no dataset {}: {}", path_, name, LibraryMessage());
  }
  Hdf5Handle stored = Own<H5Tclose>(H5Dget_type(dataset.handle_.id()));
  Hdf5Handle space = Own<H5Sclose>(H5Dget_space(dataset.handle_.id()));
  if (H5Tequal(stored.id(), TypeId(type)) <= 0 || H5Sget_simple_extent_ndims(space.id()) != rank) {
    return DataLoss("{} is not of the type and rank that the format asks for", dataset.where_);
  }
  std::vector<hsize_t> dims(rank);
  H5Sget_simple_extent_dims(space.id(), dims.data(), nullptr);
  dataset.shape_.assign(dims.begin(), dims.end());
  return dataset;
}

absl::Status Hdf5File::Close() {
  Hdf5Lock lock;
  const bool flushed = H5Fflush(file_.id(), H5F_SCOPE_GLOBAL) >= 0;
  std::string message = flushed ? "" : LibraryMessage();
  const bool closed = file_.Reset();
  if (flushed && closed) return absl::OkStatus();
  if (flushed) message = LibraryMessage();
  return DataLoss("cannot write {}: {}", path_, message);
}

}  // namespace mnemo
