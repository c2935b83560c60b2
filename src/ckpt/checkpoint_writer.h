// Writing a checkpoint. What each rank does, in this order:
//
//   rank 0        BeginCheckpoint      makes a directory under a temporary name
//   every rank    WriteCheckpointFile  writes its pieces into a file of its own in there
//   rank 0        CommitCheckpoint     from the fragments of all ranks: manifest, rename
//
// The caller carries the directory's name from rank 0 to all and the fragments back (they are
// protobuf messages); nothing here communicates. If any rank fails, rank 0 calls AbandonCheckpoint.
// Whatever happens, the checkpoints that were there before stay as they are, and what a crash
// leaves behind is neither taken for a checkpoint nor in the way of the next.
//
// Every write, sync and rename goes through the FileSystem.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/checkpoint.pb.h"
#include "src/ckpt/box.h"
#include "src/core/file_system.h"
#include "src/core/tensor.h"

namespace mnemo {

// A part of the state: the box of a tensor that starts at `begin` and has the shape of `value`.
struct StatePiece {
  std::string name;  // the tensor's: UTF-8, "GROUP/NAME", no '@'; unique in the checkpoint
  Shape whole;       // the tensor's shape
  Shape begin;
  Tensor value;  // on any device, with any strides
};
StatePiece WholePiece(std::string name, Tensor value);

// A piece of the manifest, which is read and verified as one, holds at most so many bytes, so that
// readers need not hold more than that beside what they asked for.
inline constexpr int64_t kDefaultPieceBytes = int64_t{64} << 20;

// Makes `checkpoints`/step-NNNNNNNNNNNN.tmp, an empty directory, and returns its path. Removes what
// earlier saves that did not end well have left in `checkpoints`: so only one save at a time may go
// on there. Where the step is already there, the new one is called step-NNNNNNNNNNNN.2 and so on,
// and takes the place of the old one when it is committed.
absl::StatusOr<std::string> BeginCheckpoint(FileSystem& fs, const std::string& checkpoints,
                                            int64_t step);

// Writes this rank's pieces to `temporary`/rank-NNNNN.h5, an HDF5 file with one contiguous dataset
// for each piece, and syncs it. Pieces of the same tensor that other ranks hold must not be given
// here. One tensor at a time is brought to the host. InvalidArgument for a bad name, or for a box
// that does not lie in its tensor.
absl::StatusOr<v1::CheckpointFragment> WriteCheckpointFile(
    FileSystem& fs, const std::string& temporary, int rank, std::span<const StatePiece> pieces,
    int64_t piece_bytes = kDefaultPieceBytes);

// A StatePiece whose value is asked for when its turn to be written has come.
struct DeferredPiece {
  std::string name;
  Shape whole;
  Box box;
  DType dtype;
};
// The same from `value(i)`, of the box and dtype of `pieces[i]`, called once for each piece that
// has elements, in their order. An error of its own ends the writing and is returned.
absl::StatusOr<v1::CheckpointFragment> WriteCheckpointFile(
    FileSystem& fs, const std::string& temporary, int rank, std::span<const DeferredPiece> pieces,
    const std::function<absl::StatusOr<Tensor>(size_t)>& value,
    int64_t piece_bytes = kDefaultPieceBytes);

// Makes the checkpoint whole and visible; returns its directory. `about`: config, plan, training
// (its step is that given to BeginCheckpoint), tokenizer and writer; the rest is filled in here.
// InvalidArgument if the pieces of all fragments do not cover every tensor exactly once;
// FailedPrecondition if a rank's file cannot be seen from here. After an error the checkpoint may
// be there or not, but never in parts.
absl::StatusOr<std::string> CommitCheckpoint(FileSystem& fs, const std::string& temporary,
                                             std::span<const v1::CheckpointFragment> fragments,
                                             v1::CheckpointManifest about);

// Removes a checkpoint that will not be committed, as far as it can.
void AbandonCheckpoint(FileSystem& fs, const std::string& temporary);

// All of it, for a single rank.
absl::StatusOr<std::string> SaveCheckpoint(FileSystem& fs, const std::string& checkpoints,
                                           std::span<const StatePiece> pieces,
                                           v1::CheckpointManifest about);

}  // namespace mnemo
