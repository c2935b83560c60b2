#include "src/model/door.h"

namespace mnemo {

absl::Status OutOfMemory() {
  return absl::ResourceExhaustedError(
      "out of memory: see `mnemo plan`; use a smaller train.slice, fewer train.sequences or "
      "train.micro_batches, or train.rematerialize: SLICES");
}

}  // namespace mnemo
