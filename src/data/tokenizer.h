// Text to tokens and back.
//
// Two kinds. "bytes": token = byte, any bytes at all, lossless; 256 is the separator and 257 to 263
// are never produced, so that the vocabulary (264) is a multiple of 8, as matrix products like it.
// "sentencepiece": a SentencePiece model, given or trained here; text must be UTF-8.
//
// The separator ends every document of a shard and a training stream; no text encodes to it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "src/core/digest.h"
#include "src/data/shard_format.h"

namespace mnemo {

inline constexpr std::string_view kBytesTokenizer = "bytes";
inline constexpr std::string_view kSentencePieceTokenizer = "sentencepiece";

// Immutable and thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::string_view kind() const = 0;
  virtual int64_t vocabulary() const = 0;  // tokens are in [0, vocabulary)
  virtual int32_t separator() const = 0;
  virtual const std::string& model() const = 0;  // enough, with the kind, to load it again
  virtual bool needs_utf8() const = 0;

  // Appends the tokens of `text` to `out`. InvalidArgument, with the byte offset, if it needs UTF-8
  // and `text` is not.
  virtual absl::Status Encode(std::string_view text, std::vector<int32_t>& out) const = 0;
  // Separators and reserved tokens decode to nothing. InvalidArgument outside the vocabulary.
  virtual absl::StatusOr<std::string> Decode(std::span<const int32_t> tokens) const = 0;
  // The text of one token, for printing as it comes: may be part of a UTF-8 character.
  virtual absl::StatusOr<std::string> DecodeOne(int32_t token) const = 0;

  ShardTokenizer description() const;
};

// XXH3-128 of the kind, a zero byte and the model.
Digest TokenizerHash(std::string_view kind, std::string_view model);

std::unique_ptr<Tokenizer> MakeBytesTokenizer();

// From the bytes of a SentencePiece model file. InvalidArgument if they are not one, or if it has
// no end-of-sentence piece to separate documents with. FailedPrecondition in builds with
// sanitizers and where the library is missing.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeSentencePieceTokenizer(std::string model);

// A tokenizer of a kind, as named in a shard or a model directory.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(std::string_view kind, std::string model);

struct SentencePieceOptions {
  int64_t vocabulary = 8192;
  std::string type = "unigram";  // or "bpe"
  // Threads change the rounding of the training, so their number is part of the result.
  int threads = 8;
};

// Trains a model on lines of UTF-8 text (no newline inside; lines above 4,192 bytes are passed
// over): `next_line` returns the next one, or nothing at the end. Lossless: no normalisation,
// unknown characters as bytes, runs of spaces as pieces. Returns the model's bytes, a pure function
// of lines and options.
absl::StatusOr<std::string> TrainSentencePiece(
    const SentencePieceOptions& options,
    const std::function<std::optional<std::string_view>()>& next_line);

}  // namespace mnemo
