#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/cli/command.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/data/loss_file.h"
#include "src/job/shard_source.h"
#include "src/model/evaluator.h"
#include "src/model/execution.h"
#include "src/model/saved_model.h"

namespace mnemo {
namespace {

struct EvalOptions {
  std::string model, per_token_loss;
  std::vector<std::string> shards, overrides;
  int64_t slice = 0, length = 0, max_tokens = 0;
  bool json = false;
};

struct EvalReport {
  EvaluationResult result;
  int64_t bytes = 0;  // of the text that was predicted; 0: unknown
  double seconds = 0;

  double perplexity() const { return std::exp(result.loss()); }
  double bits_per_byte() const {
    return result.loss_sum / std::log(2.0) / static_cast<double>(bytes);
  }
  double tokens_per_second() const {
    return static_cast<double>(result.positions) / std::max(seconds, 1e-9);
  }
};

// Measuring on training text can be meant, so it is only said; its shards may be gone by now.
void WarnOfTrainingText(const v1::DataConfig& data, const TokenSet& set) {
  const auto trained =
      ResolveShards({data.shards().begin(), data.shards().end()}, ShardRole::kTraining);
  if (!trained.ok()) return;
  const std::string shared = FirstSharedShard(*trained, set.files());
  if (!shared.empty()) {
    LogWarning("the model was trained on {}: its loss is not that of held-out text", shared);
  }
}

absl::StatusOr<std::unique_ptr<EvaluationStream>> OpenHeldOut(const EvalOptions& options,
                                                              const SavedModel& model) {
  std::vector<std::string> paths = options.shards;
  if (paths.empty()) {
    paths.assign(model.config.data().evaluation().begin(), model.config.data().evaluation().end());
  }
  if (paths.empty()) {
    return InvalidArgument("name held-out token shards with --shards");
  }
  MNEMO_ASSIGN_OR_RETURN(std::shared_ptr<const TokenSet> set,
                         TokenSet::Open(paths, ShardRole::kEvaluation));
  const ShardTokenizer theirs = set->tokenizer(), ours = model.tokenizer->description();
  if (theirs != ours) {
    return InvalidArgument(
        "the shards were made with the {} tokenizer {}, the model with {} {}: prepare them again "
        "with the model's tokenizer",
        theirs.kind, theirs.hash.Hex(), ours.kind, ours.hash.Hex());
  }
  WarnOfTrainingText(model.config.data(), *set);
  MNEMO_ASSIGN_OR_RETURN(auto stream,
                         OpenTokenStream(model.config.data(), model.spec, std::move(set)));
  const int64_t length =
      options.length > 0 ? options.length : model.config.train().sequence_length();
  return EvaluationStream::Create(std::move(stream), length);
}

void PrintText(const EvalReport& report) {
  const EvaluationResult& result = report.result;
  fmt::print("loss {:.4f} nats a token, perplexity {:.3f}", result.loss(), report.perplexity());
  if (report.bytes > 0) fmt::print(", {:.4f} bits per byte", report.bits_per_byte());
  fmt::print("\n{} tokens in {} sequences, {:.0f} tokens/s\n\n", result.positions, result.sequences,
             report.tokens_per_second());
  fmt::print("{:>21}  {:>10}  {:>8}\n", "position", "tokens", "loss");
  for (const PositionBucket& bucket : result.buckets) {
    fmt::print("{:>21}  {:>10}  {:>8.4f}\n", fmt::format("{}..{}", bucket.first, bucket.last),
               bucket.targets, bucket.loss());
  }
}

void PrintJson(const EvalReport& report) {
  const EvaluationResult& result = report.result;
  nlohmann::ordered_json json = {{"loss", result.loss()},
                                 {"perplexity", report.perplexity()},
                                 {"tokens", result.positions},
                                 {"targets", result.targets},
                                 {"sequences", result.sequences},
                                 {"seconds", report.seconds},
                                 {"tokens_per_second", report.tokens_per_second()}};
  if (report.bytes > 0) json["bits_per_byte"] = report.bits_per_byte();
  json["by_position"] = nlohmann::ordered_json::array();
  for (const PositionBucket& bucket : result.buckets) {
    json["by_position"].push_back({{"first", bucket.first},
                                   {"last", bucket.last},
                                   {"targets", bucket.targets},
                                   {"loss", bucket.loss()}});
  }
  fmt::print("{}\n", json.dump(2));
}

// Where documents reset the state, a slice begins where a document may: at a chunk or segment.
absl::Status CheckSlice(int64_t slice, const EvaluationStream& stream) {
  const int64_t alignment = stream.stream().alignment();
  if (slice % alignment == 0 || slice >= stream.length(0)) return absl::OkStatus();
  return InvalidArgument(
      "--slice {}: the model was trained with data.document_reset: CHUNK, so slices are multiples "
      "of its chunk (MAC: segment) of {} tokens; take {}",
      slice, alignment, (slice + alignment - 1) / alignment * alignment);
}

absl::StatusOr<EvalReport> RunEvaluation(const EvalOptions& options, const SavedModel& model,
                                         const EvaluationStream& stream) {
  EvaluationOptions evaluation;
  evaluation.slice = options.slice > 0 ? options.slice : model.config.train().slice();
  evaluation.max_positions = options.max_tokens;
  evaluation.vocabulary_tile = model.config.train().vocabulary_tile();
  MNEMO_RETURN_IF_ERROR(CheckSlice(evaluation.slice, stream));
  FileSystem& fs = FileSystem::Posix();
  std::unique_ptr<LossFileWriter> file;
  if (!options.per_token_loss.empty()) {
    MNEMO_ASSIGN_OR_RETURN(file,
                           LossFileWriter::Create(fs, options.per_token_loss,
                                                  SequenceOffsets(stream, options.max_tokens)));
  }
  EvalReport report;
  // One byte is one token here, but for the separators.
  const bool count_bytes = model.tokenizer->kind() == kBytesTokenizer;
  const int32_t separator = model.tokenizer->separator();
  const auto sink = [&](const EvaluatedSlice& slice) {
    for (const int32_t target : slice.targets) {
      if (count_bytes && target >= 0 && target != separator) ++report.bytes;
    }
    return file == nullptr ? absl::OkStatus() : file->Append(slice.losses, slice.targets);
  };
  const auto begin = std::chrono::steady_clock::now();
  MNEMO_ASSIGN_OR_RETURN(report.result,
                         Evaluate(model.spec, model.parameters, stream, evaluation, sink));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (file != nullptr) MNEMO_RETURN_IF_ERROR(file->Finish());
  return report;
}

absl::Status Eval(const EvalOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const SavedModel model,
                         LoadModel(FileSystem::Posix(), options.model, options.overrides));
  ApplyExecution(model.config.execution());
  MNEMO_ASSIGN_OR_RETURN(const auto stream, OpenHeldOut(options, model));
  MNEMO_ASSIGN_OR_RETURN(const EvalReport report, RunEvaluation(options, model, *stream));
  options.json ? PrintJson(report) : PrintText(report);
  return absl::OkStatus();
}

}  // namespace

void AddEvalCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand(
      "eval", "Measure a model's loss on held-out text, also by position in the sequence.");
  command
      ->add_option("--model", options->model,
                   "Model directory, or a checkpoint, or a run, whose newest checkpoint is taken")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--shards", options->shards,
                   "Held-out token shards: files, patterns or directories, of which eval-*.h5 is "
                   "taken; without: those of the model's configuration")
      ->type_name("PATH");
  command
      ->add_option("--length", options->length,
                   "Tokens of one sequence, any number; 0: the length trained at")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--slice", options->slice,
                   "Tokens run at once: bounds memory, changes no result; 0: as in training")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--max-tokens", options->max_tokens, "Stop after so many tokens; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--per-token-loss", options->per_token_loss,
                   "HDF5 file to write: datasets loss (f32, nats) and sequence_offsets")
      ->type_name("FILE");
  command->add_option("--set", options->overrides, "execution.FIELD=VALUE, such as threads")
      ->type_name("PATH=VALUE");
  command->add_flag("--json", options->json, "Print the result as JSON");
  command->callback([&chosen, options] { chosen = [options] { return Eval(*options); }; });
}

}  // namespace mnemo
