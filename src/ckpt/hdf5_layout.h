// Where everything lies in an HDF5 file of contiguous datasets: all metadata first, then the
// contents of the datasets.
//
// The file is laid out here, not by the HDF5 library, because then it can be written front to back
// through the FileSystem interface, every byte of it: contents go straight from memory to the file,
// and no save waits for (or holds) the library's process-wide lock. The library and its tools read
// the result; nothing here needs it.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/core/tensor.h"

namespace mnemo {

// Every dataset starts at a multiple of this.
inline constexpr int64_t kHdf5Alignment = 64;

struct Hdf5DatasetSpec {
  std::string path;  // "GROUP/../NAME"; groups are made as needed
  DType dtype = DType::kF32;
  Shape shape;                                             // at least one element
  std::map<std::string, std::vector<int64_t>> attributes;  // names in ASCII; none empty
};

struct Hdf5Layout {
  std::string header;            // the file's first bytes
  std::vector<int64_t> offsets;  // of each dataset's contents, increasing; zeros between them
  int64_t bytes = 0;             // of the file
};

// `attributes`: those of the file's root, in ASCII. The result is a function of the arguments
// alone. InvalidArgument for paths that are empty, too long (1024 bytes in all), have an empty or
// "." component or a zero byte, are given twice, or name a dataset and a group both.
absl::StatusOr<Hdf5Layout> LayOutHdf5(std::span<const Hdf5DatasetSpec> datasets,
                                      const std::map<std::string, std::string>& attributes);

}  // namespace mnemo
