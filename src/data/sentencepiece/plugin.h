// SentencePiece behind a C interface, in a shared library of its own.
//
// Debian's libsentencepiece carries an old copy of protobuf-lite and exports its symbols. In one
// process with the system's libprotobuf each would bind to the other's functions, and protobuf's
// version check ends the program. So this plugin is the only thing that links SentencePiece, and
// it is loaded with RTLD_DEEPBIND, which makes it look for symbols in its own libraries first. Only
// C types cross the boundary, and the standard error stream (below).
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Receives bytes; called at most once per call of a function below.
struct MnemoSink {
  void* context;
  void (*write)(void* context, const void* data, size_t bytes);
};

// Functions that return bool: false means failure, with a message in `error`.
struct MnemoSentencePieceApi {
  // Null on failure. Everything that takes the result is thread-safe, `free` aside.
  void* (*load)(const char* model, size_t bytes, MnemoSink error);
  void (*free)(void* processor);
  int32_t (*vocabulary)(const void* processor);
  int32_t (*end_of_sentence)(const void* processor);  // -1: none
  // Writes int32 tokens.
  bool (*encode)(const void* processor, const char* text, size_t bytes, MnemoSink tokens,
                 MnemoSink error);
  bool (*decode)(const void* processor, const int32_t* tokens, size_t count, MnemoSink text,
                 MnemoSink error);
  // One token as it stands in running text.
  bool (*decode_one)(const void* processor, int32_t token, MnemoSink text, MnemoSink error);
  // `flags`: spm_train's, as "name=value name=value". `next` sets a line and returns true, or
  // returns false at the end.
  bool (*train)(const char* flags, void* context,
                bool (*next)(void* context, const char** line, size_t* bytes), MnemoSink model,
                MnemoSink error);
};

// The one exported function. `standard_error` is the program's std::cerr (a std::ostream*). A
// program may hold that object itself, by a copy relocation, and then the one in libstdc++ itself,
// to which deep binding leads this library, was never constructed: the first log line would crash.
const MnemoSentencePieceApi* MnemoSentencePiece(void* standard_error);
}
