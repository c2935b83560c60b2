#include "src/data/unit_feeder.h"

#include <cstring>

#include "src/core/status.h"

namespace mnemo {
namespace {

std::string_view View(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()};
}

}  // namespace

UnitFeeder::UnitFeeder(std::vector<InputFile> files, const InputOptions& input, double holdout,
                       uint64_t seed, const std::array<SplitProgress, 2>& resume,
                       std::string difference)
    : reader_(std::move(files), input),
      holdout_(holdout),
      seed_(seed),
      resume_(resume),
      difference_(std::move(difference)) {}

absl::Status UnitFeeder::Changed(const TextUnit& unit) const {
  return FailedPrecondition(
      "the input is not the text that the finished shards were made from ({}): give the same input "
      "to go on, or --overwrite to start again",
      difference_.empty() ? "it differs in " + FileName(unit) + ", or before" : difference_);
}

// A document's first unit decides, as the rest may still be to come.
Split UnitFeeder::Choose(const Digest& digest) const {
  DigestStream stream;
  stream.Update({reinterpret_cast<const char*>(&seed_), sizeof(seed_)});
  stream.Update(View(digest));
  uint64_t bits = 0;
  std::memcpy(&bits, stream.Finish().bytes.data(), sizeof(bits));
  return static_cast<double>(bits >> 11) * 0x1p-53 < holdout_ ? kEval : kTrain;
}

absl::StatusOr<bool> UnitFeeder::Next(FedUnit& fed) {
  while (true) {
    MNEMO_ASSIGN_OR_RETURN(bool more, reader_.Next(fed.unit));
    if (!more) {
      for (size_t i = 0; i < state_.size(); ++i) {
        if (state_[i].documents < resume_[i].documents) return Changed(fed.unit);
      }
      return false;
    }
    const Digest digest = DigestOf(fed.unit.text);
    if (fed.unit.first) {
      split_ = holdout_ > 0 ? Choose(digest) : kTrain;
      ++state_[split_].documents;
    }
    State& state = state_[split_];
    DigestStream chain;
    chain.Update(View(state.chain));
    chain.Update(View(digest));
    chain.Update(fed.unit.last ? "/" : "+");
    state.chain = chain.Finish();
    const SplitProgress& resume = resume_[split_];
    if (state.documents <= resume.documents) {
      const bool end = fed.unit.last && state.documents == resume.documents;
      if (end && state.chain != resume.chain) return Changed(fed.unit);
      continue;
    }
    fed.split = split_;
    fed.documents = state.documents;
    fed.chain = state.chain;
    return true;
  }
}

absl::Status UnitFeeder::ExpectNothingNew(const EncodeOptions& options) {
  FedUnit fed;
  std::string storage;
  while (true) {
    MNEMO_ASSIGN_OR_RETURN(const bool more, Next(fed));
    if (!more) return absl::OkStatus();
    // Documents without text leave no trace in shards.
    const auto text = UnitText(fed.unit, FileName(fed.unit), options, storage);
    if (!text.ok() || !text->empty()) return Changed(fed.unit);
  }
}

}  // namespace mnemo
