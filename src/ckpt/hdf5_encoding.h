// The parts of the HDF5 file format that a file of contiguous datasets needs, as its specification
// (version 3.0) defines them: superblock version 2, object headers version 2, groups whose links
// lie in their header. All numbers are little-endian, all addresses count from the start of the
// file.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "src/core/tensor.h"

namespace mnemo::hdf5 {

inline constexpr int64_t kSuperblockBytes = 48;

// The checksum of all metadata: Jenkins' lookup3 hash, seed 0.
uint32_t Checksum(std::string_view bytes);

std::string Superblock(int64_t end_of_file, int64_t root_address);

// The messages of an object header, in the form in which ObjectHeader takes them.
std::string GroupMessages();  // an object with these is a group
std::string LinkMessage(std::string_view name, int64_t address);
// An object with these is a dataset, its contents at `data_address`.
std::string DatasetMessages(DType dtype, const Shape& shape, int64_t data_address);
std::string AttributeMessage(std::string_view name, std::span<const int64_t> values);
std::string AttributeMessage(std::string_view name, std::string_view text);  // ASCII

// `messages`: any of the above, one after the other.
std::string ObjectHeader(std::string_view messages);

}  // namespace mnemo::hdf5
