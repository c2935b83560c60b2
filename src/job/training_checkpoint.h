// A training run as a checkpoint, and back: parameters, optimizer state and counters. What else
// decides the later steps (the data, the seed) is named in the manifest and checked on the way
// back.
//
// Every rank of the job calls these functions together; each writes and reads what it holds, and
// all return the same Status. Steps after a restore are bitwise those of the run that saved, on the
// same mesh; on another, to rounding.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/checkpoint.pb.h"
#include "src/ckpt/checkpoint_retention.h"
#include "src/ckpt/checkpoint_writer.h"
#include "src/core/file_system.h"
#include "src/job/trainer.h"

namespace mnemo {

// What one rank saves. The pieces show the trainer's tensors, which the next step changes: what is
// written later is written from copies (StateSnapshot).
struct SavedTraining {
  std::vector<StatePiece> pieces;
  v1::CheckpointManifest manifest;  // of the first rank: `about`, and the trainer's counters
};
// `about`, of the first rank: writer, config, plan, tokenizer, and of the training state
// data_digest, tokens_seen and evaluation_loss; the rest is the trainer's.
SavedTraining CollectTraining(const v1::CheckpointManifest& about, Trainer& trainer);

// Saves into `checkpoints` (RUN/checkpoints), which all ranks see under that name, and returns the
// new checkpoint's directory. After an error the trainer goes on as if nothing had happened, and
// earlier checkpoints are whole.
absl::StatusOr<std::string> SaveTraining(FileSystem& fs, const std::string& checkpoints,
                                         const v1::CheckpointManifest& about, Trainer& trainer);
struct WriteOptions {
  // What else stays when the checkpoint is there; the rest is removed. What goes wrong with that is
  // a warning. Without it all stay.
  std::optional<RetentionRule> keep;
  int64_t piece_bytes = kDefaultPieceBytes;
};
// The same of what has been collected, or could not be: then no rank saves. `group` is the ranks'
// saves(), if this is called on the thread that saves, or world(). Ranks wait for each other's
// files, however slow the disk: only where one is not heard of for the timeout are all aborted.
absl::StatusOr<std::string> WriteTraining(FileSystem& fs, const std::string& checkpoints,
                                          const absl::StatusOr<SavedTraining>& saved, Ranks& ranks,
                                          Communicator& group, const WriteOptions& options = {});

// Takes a trainer, just made, to where the checkpoint was. FailedPrecondition if the checkpoint is
// of another model, precision, seed or number of sequences a step; DataLoss if it is damaged. After
// an error the trainer is of no use but, if it is DataLoss, to restore another checkpoint into.
absl::Status RestoreTraining(FileSystem& fs, const std::string& checkpoint, Trainer& trainer);

}  // namespace mnemo
