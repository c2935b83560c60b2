// Documents with their split, as prepare reads them: decides which are held out, and passes over
// those that finished shards already hold.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "src/data/document_reader.h"
#include "src/data/encode_unit.h"
#include "src/data/prepare_manifest.h"

namespace mnemo {

struct FedUnit {
  TextUnit unit;
  Split split = kTrain;
  // Of this split, after this unit: what SplitProgress records when a shard ends here.
  int64_t documents = 0;
  Digest chain;
};

// Not thread-safe, but for bytes_read().
class UnitFeeder {
 public:
  // `holdout`: the fraction to put into kEval. `resume`: what to pass over, by split. `difference`:
  // what is known of how the input has changed since; for the error, should its text have changed.
  UnitFeeder(std::vector<InputFile> files, const InputOptions& input, double holdout, uint64_t seed,
             const std::array<SplitProgress, 2>& resume, std::string difference = "");

  // False at the end. FailedPrecondition if what is passed over is not the text that it was.
  absl::StatusOr<bool> Next(FedUnit& fed);
  // Reads to the end. FailedPrecondition if there is text beside what is passed over.
  absl::Status ExpectNothingNew(const EncodeOptions& options);

  int64_t bytes_read() const { return reader_.bytes_read(); }
  const std::string& FileName(const TextUnit& unit) const {
    return reader_.files()[static_cast<size_t>(unit.file)].path;
  }

 private:
  struct State {
    int64_t documents = 0;  // begun
    Digest chain;
  };
  Split Choose(const Digest& digest) const;
  absl::Status Changed(const TextUnit& unit) const;

  DocumentReader reader_;
  const double holdout_;
  const uint64_t seed_;
  const std::array<SplitProgress, 2> resume_;
  const std::string difference_;
  std::array<State, 2> state_;
  Split split_ = kTrain;  // of the open document
};

}  // namespace mnemo
