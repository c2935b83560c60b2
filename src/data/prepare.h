// The library behind `mnemo data prepare`: text to token shards.
//
// One file is one document, one JSONL line is one document, standard input is one document; with a
// delimiter, plain text is cut into documents at such lines. Documents keep their order, end with
// the tokenizer's separator, and never cross shards. The output is a pure function of the inputs
// and the options; threads only change the speed. Documents without text leave no trace.
//
// In the output directory: train-NNNNN.h5, eval-NNNNN.h5 (held out), prepare.json, and
// tokenizer.model where one was trained.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/core/file_system.h"
#include "src/data/encode_unit.h"
#include "src/data/input_list.h"
#include "src/data/tokenizer.h"

namespace mnemo {

struct PrepareOptions {
  InputOptions input;
  std::string out;  // directory, made if missing

  std::string tokenizer = "bytes";  // or "sentencepiece"
  std::string tokenizer_model;      // SentencePiece: this model file; empty: train one
  SentencePieceOptions train;       // of that training
  int64_t sample_bytes = 16 << 20;  // text to train on, taken evenly; held-out text is left out

  InvalidUtf8 invalid_utf8 = InvalidUtf8::kError;
  double holdout = 0;  // fraction of documents, chosen by a hash of their text: equal documents
                       // fall on the same side. 0: none
  uint64_t seed = 0;   // of that choice and of the sample
  int64_t shard_bytes = int64_t{256} << 20;  // of tokens; a shard ends with the document that
                                             // reaches this
  int threads = 0;                           // tokenising; 0: ThreadsForThisThread()
  bool overwrite = false;                    // replace other data in `out`
};

struct PrepareProgress {
  const char* phase = "";    // "training the tokenizer", "tokenising"
  int64_t bytes_read = 0;    // of this phase, resumed documents included
  int64_t bytes_total = -1;  // -1: unknown (standard input)
  int64_t documents = 0;     // written, in both splits
  int64_t tokens = 0;
  int64_t shards = 0;  // finished
  double seconds = 0;  // since the phase began
};

struct PrepareSummary {
  ShardTokenizer tokenizer;
  int64_t tokens[2] = {0, 0};  // [train, eval], whole directory
  int64_t documents[2] = {0, 0};
  int64_t shards[2] = {0, 0};
  int64_t resumed_shards = 0;  // that were there already
  int64_t bytes = 0;           // of text read
  double seconds = 0;          // tokenising, without training the tokenizer
  int64_t hidden = 0;          // files and directories of the input that were left out,
  int64_t binary = 0;          // by cause; see InputList
  std::vector<std::string> named_binary;
};

// Called from Prepare()'s thread, at most some five times a second and once at the end.
using ProgressCallback = std::function<void(const PrepareProgress&)>;

// Goes on where a killed run with the same options stopped; the result is the same, byte for byte.
// After a finished run only the sizes and times of the inputs are looked at, and where these are
// not the same (or not known) their text. Errors:
//   InvalidArgument     options, or text that is malformed (file, and line or byte)
//   FailedPrecondition  `out` holds other data, or the text of the input changed since the killed
//                       or finished run, or the hold-out chose no document or all of them
//   NotFound, Unavailable, ...  the file system's, e.g. a full disk
// After any error the finished shards are whole and a second call goes on from them.
absl::StatusOr<PrepareSummary> Prepare(FileSystem& fs, const PrepareOptions& options,
                                       const ProgressCallback& progress = nullptr);

}  // namespace mnemo
