#include "src/data/prepare.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "src/core/status.h"
#include "src/core/thread_pool.h"
#include "src/data/ordered_pipeline.h"
#include "src/data/prepare_directory.h"
#include "src/data/recorded_inputs.h"
#include "src/data/split_writer.h"
#include "src/data/tokenizer_sample.h"

namespace mnemo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kJobBytes = size_t{1} << 20;
constexpr size_t kJobUnits = 1024;

// Some units, tokenised together: their tokens one after the other.
struct Job {
  std::vector<FedUnit> units;
  std::vector<int32_t> tokens;
  std::vector<size_t> ends;  // of each unit in `tokens`
  absl::Status status;       // of reading or tokenising; units before the failure are left out
};

std::unique_ptr<Job> MakeJob(UnitFeeder& feeder, bool& ended) {
  auto job = std::make_unique<Job>();
  size_t bytes = 0;
  while (!ended && bytes < kJobBytes && job->units.size() < kJobUnits) {
    FedUnit fed;
    const absl::StatusOr<bool> more = feeder.Next(fed);
    if (!more.ok()) job->status = more.status();
    ended = !more.ok() || !*more;
    if (ended) break;
    bytes += fed.unit.text.size();
    job->units.push_back(std::move(fed));
  }
  return job->units.empty() && job->status.ok() ? nullptr : std::move(job);
}

void EncodeJob(const UnitFeeder& feeder, const Tokenizer& tokenizer, const EncodeOptions& options,
               Job& job) {
  for (FedUnit& fed : job.units) {
    const absl::Status status =
        EncodeUnit(fed.unit, feeder.FileName(fed.unit), tokenizer, options, job.tokens);
    if (!status.ok()) {
      job.status = status;  // comes before a reading error at the job's end
      break;
    }
    fed.unit.text = std::string();
    job.ends.push_back(job.tokens.size());
  }
}

// Tells the caller how far things are, but not too often.
class Reporter {
 public:
  Reporter(const char* phase, const std::vector<InputFile>& files, const ProgressCallback& callback)
      : callback_(callback) {
    progress_.phase = phase;
    progress_.bytes_total = 0;
    for (const InputFile& file : files) {
      const bool known = file.size >= 0 && progress_.bytes_total >= 0;
      progress_.bytes_total = known ? progress_.bytes_total + file.size : -1;
    }
  }
  PrepareProgress& progress() { return progress_; }
  double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  bool Due() const { return callback_ && Seconds() - progress_.seconds >= 0.2; }
  void Report() {
    progress_.seconds = Seconds();
    if (callback_) callback_(progress_);
  }

 private:
  const ProgressCallback& callback_;
  const Clock::time_point start_ = Clock::now();
  PrepareProgress progress_;
};

absl::Status CheckOptions(const PrepareOptions& options) {
  if (options.out.empty()) return absl::InvalidArgumentError("no output directory is given");
  if (!(options.holdout >= 0 && options.holdout < 1)) {
    return InvalidArgument("the hold-out is {}, it must be at least 0 and below 1",
                           options.holdout);
  }
  if (options.shard_bytes < 1) return InvalidArgument("shards of {} bytes", options.shard_bytes);
  if (options.sample_bytes < 1)
    return InvalidArgument("a sample of {} bytes", options.sample_bytes);
  if (options.threads < 0) return InvalidArgument("{} threads", options.threads);
  if (!options.tokenizer_model.empty() && options.tokenizer != kSentencePieceTokenizer) {
    return InvalidArgument("the tokenizer '{}' takes no model file", options.tokenizer);
  }
  return absl::OkStatus();
}

void Report(Reporter& reporter, const UnitFeeder& feeder, const PrepareManifest& manifest,
            const SplitWriter& train, const SplitWriter& eval) {
  PrepareProgress& progress = reporter.progress();
  progress.bytes_read = feeder.bytes_read();
  progress.documents = train.documents() + eval.documents();
  progress.tokens = train.tokens() + eval.tokens();
  progress.shards = static_cast<int64_t>(manifest.splits[kTrain].shards.size() +
                                         manifest.splits[kEval].shards.size());
  reporter.Report();
}

// The run proper: everything is set up, `manifest` says what is there already.
absl::Status Tokenise(FileSystem& fs, const PrepareOptions& options, UnitFeeder& feeder,
                      const Tokenizer& tokenizer, PrepareManifest& manifest, Reporter& reporter) {
  const EncodeOptions encode{options.input.field, options.invalid_utf8};
  const ShardTokenizer description = tokenizer.description();
  SplitWriter train(fs, options.out, kTrain, description, tokenizer.model(), options.shard_bytes,
                    manifest);
  SplitWriter eval(fs, options.out, kEval, description, tokenizer.model(), options.shard_bytes,
                   manifest);
  bool ended = false;
  const int threads = options.threads > 0 ? options.threads : ThreadsForThisThread();
  OrderedPipeline<Job> pipeline(
      threads, 3 * threads + 1, [&] { return MakeJob(feeder, ended); },
      [&](Job& job) { EncodeJob(feeder, tokenizer, encode, job); });
  while (true) {
    MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<Job> job, pipeline.Next());
    if (job == nullptr) break;
    size_t begin = 0;
    for (size_t i = 0; i < job->ends.size(); ++i) {
      SplitWriter& writer = job->units[i].split == kTrain ? train : eval;
      const std::span<const int32_t> all(job->tokens);
      MNEMO_RETURN_IF_ERROR(writer.Add(job->units[i], all.subspan(begin, job->ends[i] - begin)));
      begin = job->ends[i];
    }
    MNEMO_RETURN_IF_ERROR(job->status);
    if (reporter.Due()) Report(reporter, feeder, manifest, train, eval);
  }
  MNEMO_RETURN_IF_ERROR(train.Finish());
  MNEMO_RETURN_IF_ERROR(eval.Finish());
  Report(reporter, feeder, manifest, train, eval);
  return absl::OkStatus();
}

absl::Status CheckSplits(const PrepareOptions& options, const PrepareManifest& manifest) {
  const bool train = !manifest.splits[kTrain].shards.empty();
  const bool eval = !manifest.splits[kEval].shards.empty();
  if (!train && !eval) return absl::InvalidArgumentError("the input is empty: it has no text");
  if (options.holdout == 0 || (train && eval)) return absl::OkStatus();
  return FailedPrecondition(
      "a hold-out of {} chose {} of the documents: give more documents (--delimiter cuts files "
      "into them), another --seed, or another --holdout, with --overwrite",
      options.holdout, eval ? "all" : "none");
}

PrepareSummary Summarise(const PrepareManifest& manifest, const ShardTokenizer& tokenizer) {
  PrepareSummary summary;
  summary.tokenizer = tokenizer;
  for (int i = 0; i < 2; ++i) {
    for (const FinishedShard& shard : manifest.splits[static_cast<size_t>(i)].shards) {
      summary.tokens[i] += shard.tokens;
      summary.documents[i] += shard.documents;
      ++summary.shards[i];
    }
  }
  return summary;
}

}  // namespace

absl::StatusOr<PrepareSummary> Prepare(FileSystem& fs, const PrepareOptions& options,
                                       const ProgressCallback& callback) {
  MNEMO_RETURN_IF_ERROR(CheckOptions(options));
  InputOptions input = options.input;
  input.skip_directory = options.out;
  MNEMO_ASSIGN_OR_RETURN(const InputList inputs, ListInputs(input));
  const std::vector<InputFile>& files = inputs.files;

  std::optional<Reporter> training;
  const auto train = [&]() -> absl::StatusOr<std::string> {
    training.emplace("training the tokenizer", files, callback);
    return TrainOnSample(options, files, [&](int64_t read) {
      training->progress().bytes_read = read;
      if (training->Due()) training->Report();
    });
  };
  MNEMO_ASSIGN_OR_RETURN(PreparedDirectory directory, OpenPreparedDirectory(fs, options, train));
  PrepareManifest& manifest = directory.manifest;
  const int64_t resumed = static_cast<int64_t>(manifest.splits[kTrain].shards.size() +
                                               manifest.splits[kEval].shards.size());
  Reporter reporter("tokenising", files, callback);
  const std::vector<PreparedInput> before = std::exchange(manifest.inputs, RecordInputs(files));
  UnitFeeder feeder(files, options.input, options.holdout, options.seed, manifest.splits,
                    FirstDifference(before, manifest.inputs));
  if (!manifest.complete) {
    MNEMO_RETURN_IF_ERROR(Tokenise(fs, options, feeder, *directory.tokenizer, manifest, reporter));
    MNEMO_RETURN_IF_ERROR(CheckSplits(options, manifest));
    manifest.complete = true;
    MNEMO_RETURN_IF_ERROR(manifest.Save(fs, options.out));
  } else if (!SurelyTheSame(before, manifest.inputs)) {
    MNEMO_RETURN_IF_ERROR(feeder.ExpectNothingNew({options.input.field, options.invalid_utf8}));
    MNEMO_RETURN_IF_ERROR(manifest.Save(fs, options.out));
  }
  PrepareSummary summary = Summarise(manifest, directory.tokenizer->description());
  summary.resumed_shards = resumed;
  summary.bytes = feeder.bytes_read();
  summary.seconds = reporter.Seconds();
  summary.hidden = inputs.hidden;
  summary.binary = inputs.binary;
  summary.named_binary = inputs.named_binary;
  return summary;
}

}  // namespace mnemo
