#include "src/model/door.h"

namespace mnemo {

std::string_view SmallerRunAdvice() {
  return "see `mnemo plan`; use a smaller train.slice, fewer train.sequences or "
         "train.micro_batches, or train.rematerialize: SLICES";
}

absl::Status OutOfMemory() {
  return absl::ResourceExhaustedError(fmt::format("out of memory: {}", SmallerRunAdvice()));
}

}  // namespace mnemo
