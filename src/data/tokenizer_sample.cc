#include "src/data/tokenizer_sample.h"

#include <cmath>

#include "src/core/random.h"
#include "src/core/status.h"
#include "src/data/unit_feeder.h"
#include "src/data/utf8.h"

namespace mnemo {
namespace {

constexpr size_t kLongestSample = 4096;  // bytes of a line; SentencePiece passes over longer ones

void AddLines(std::string_view piece, std::vector<std::string>& lines) {
  const std::string repaired = RepairUtf8(piece, false);  // encoding will report what was wrong
  std::string_view rest = repaired;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    const size_t cut = CutPoint(line, kLongestSample);
    // NUL would end SentencePiece's pieces.
    if (cut > 0 && line.substr(0, cut).find('\0') == std::string_view::npos) {
      lines.emplace_back(line.substr(0, cut));
    }
    rest.remove_prefix(std::min(rest.size(), cut < line.size() ? cut : cut + 1));
  }
}

}  // namespace

absl::StatusOr<std::string> TrainOnSample(const PrepareOptions& options,
                                          const std::vector<InputFile>& files,
                                          const std::function<void(int64_t)>& read) {
  int64_t total = 0;
  for (const InputFile& file : files) {
    if (file.size < 0) {
      return InvalidArgument(
          "training a tokenizer reads the input twice, and {} can be read once: save it to a file "
          "first, or give --tokenizer-model",
          file.path == "-" ? "standard input" : file.path);
    }
    total += file.size;
  }
  const double rate = total > options.sample_bytes
                          ? static_cast<double>(options.sample_bytes) / static_cast<double>(total)
                          : 1.0;
  // Every (1 / rate)-th piece, the first one always, so that a sample of any text is not empty.
  const double offset = RandomStream(options.seed, 0, "data/tokenizer sample").Uniform(0);
  const auto taken = [&](uint64_t piece) {
    const double place = static_cast<double>(piece) * rate + offset;
    return piece == 0 || std::floor(place) > std::floor(place - rate);
  };
  const EncodeOptions encode{options.input.field, options.invalid_utf8};
  UnitFeeder feeder(files, options.input, options.holdout, options.seed, {});
  std::vector<std::string> lines;
  uint64_t index = 0;
  while (true) {
    FedUnit fed;
    MNEMO_ASSIGN_OR_RETURN(bool more, feeder.Next(fed));
    if (!more) break;
    if (read) read(feeder.bytes_read());
    if (fed.split != kTrain) continue;
    std::string storage;
    MNEMO_ASSIGN_OR_RETURN(std::string_view text,
                           UnitText(fed.unit, feeder.FileName(fed.unit), encode, storage));
    while (!text.empty()) {
      const size_t cut = CutPoint(text, kPieceBytes);
      if (taken(index++)) AddLines(text.substr(0, cut), lines);
      text.remove_prefix(cut);
    }
  }
  if (lines.empty()) {
    return absl::InvalidArgumentError("there is no text in the input to train a tokenizer on");
  }
  size_t next = 0;
  return TrainSentencePiece(options.train, [&]() -> std::optional<std::string_view> {
    if (next == lines.size()) return std::nullopt;
    return lines[next++];
  });
}

}  // namespace mnemo
