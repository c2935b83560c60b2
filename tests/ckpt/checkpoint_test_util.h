// A small training state, and ways to cut it over ranks, save it and recognise it.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/checkpoint_writer.h"
#include "src/core/file_system.h"

namespace mnemo {

struct TestTensor {
  std::string name;
  Tensor value;
};
using TestState = std::vector<TestTensor>;

// Tensors of every dtype, of rank 0 to 3, one of them empty; `seed` decides the values.
TestState MakeState(int seed);

// What one of `ranks` ranks holds: of each tensor uneven rows, uneven columns, or all on one rank.
std::vector<StatePiece> PiecesOf(const TestState& state, int rank, int ranks);

// The manifest's part that a trainer fills in.
v1::CheckpointManifest About(int64_t step);

// Saves as `ranks` ranks would. `fs` is used by all of them, one after the other.
absl::StatusOr<std::string> SaveState(FileSystem& fs, const std::string& checkpoints, int64_t step,
                                      const TestState& state, int ranks,
                                      int64_t piece_bytes = kDefaultPieceBytes);

// Bytes of a contiguous host tensor.
std::string BytesOf(const Tensor& tensor);

// Fails the test unless the checkpoint holds exactly this state, bit by bit.
void ExpectHolds(const std::string& directory, const TestState& state);

// Applies `change` to a file's bytes. Nothing is synced.
template <typename Change>
void ChangeFile(const std::string& path, Change change) {
  std::string bytes = FileSystem::Posix().ReadFile(path).value();
  change(bytes);
  auto file = FileSystem::Posix().Create(path);
  ASSERT_TRUE(file.ok() && (*file)->Append(bytes).ok() && (*file)->Close().ok()) << path;
}

}  // namespace mnemo
