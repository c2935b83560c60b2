// Writing a checkpoint anew, cut for another number of ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/checkpoint_writer.h"

namespace mnemo {

struct ReshardOptions {
  int files = 1;  // at least 1; fewer are written where there is too little to share
  int64_t piece_bytes = kDefaultPieceBytes;
  std::function<void(int64_t bytes)> on_progress = [](int64_t) {};  // written so far
};

// Writes what `from` holds, bit for bit, into `checkpoints` as a checkpoint of the same step, in
// files of about equal size: as if so many ranks had written it, each the next rows of the tensors
// in their order. Configuration, plan and training state stay those of the run that wrote it. Every
// digest is checked on the way, and one part of a tensor at a time is held, which is a whole tensor
// where files are few. Returns the new directory.
//
// `checkpoints` may be where `from` lies: the new one then takes the place of the old when it is
// whole. No save may be going on there. After an error all is as it was.
absl::StatusOr<std::string> ReshardCheckpoint(FileSystem& fs, const CheckpointReader& from,
                                              const std::string& checkpoints,
                                              const ReshardOptions& options);

}  // namespace mnemo
