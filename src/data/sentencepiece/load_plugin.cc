#include "src/data/sentencepiece/load_plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <iostream>
#include <string>

#include "src/core/status.h"

namespace mnemo::internal {
namespace {

absl::StatusOr<const MnemoSentencePieceApi*> Load() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return absl::FailedPreconditionError(
      "SentencePiece cannot be loaded in a build with sanitizers: use another build, or the bytes "
      "tokenizer");
#else
  namespace stdfs = std::filesystem;
  std::error_code error;
  const stdfs::path here = stdfs::read_symlink("/proc/self/exe", error).parent_path();
  std::string reason;
  for (const stdfs::path& candidate :
       {here / MNEMO_SENTENCEPIECE_NAME, here.parent_path() / "lib" / MNEMO_SENTENCEPIECE_NAME,
        stdfs::path(MNEMO_SENTENCEPIECE_BUILT)}) {
    if (!stdfs::exists(candidate, error)) continue;
    // Never closed: tokenizers may live in static objects.
    void* library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (library != nullptr) {
      using Entry = decltype(&MnemoSentencePiece);
      auto entry = reinterpret_cast<Entry>(dlsym(library, "MnemoSentencePiece"));
      if (entry != nullptr) return entry(&std::cerr);
    }
    reason = dlerror();
  }
  if (reason.empty()) {
    reason = fmt::format("{} is not in {} nor in ../lib beside it", MNEMO_SENTENCEPIECE_NAME,
                         here.string());
  }
  return FailedPrecondition("cannot load SentencePiece: {}", reason);
#endif
}

}  // namespace

absl::StatusOr<const MnemoSentencePieceApi*> SentencePieceApi() {
  static const auto* api = new absl::StatusOr<const MnemoSentencePieceApi*>(Load());
  return *api;
}

}  // namespace mnemo::internal
