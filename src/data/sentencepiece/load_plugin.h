#pragma once

#include "absl/status/statusor.h"
#include "src/data/sentencepiece/plugin.h"

namespace mnemo::internal {

// Loads libmnemo_sentencepiece.so, once: from the program's directory, from ../lib beside it, or
// from where it was built. FailedPrecondition, with the loader's words, where that fails, and in
// builds with sanitizers, which do not allow RTLD_DEEPBIND.
absl::StatusOr<const MnemoSentencePieceApi*> SentencePieceApi();

}  // namespace mnemo::internal
