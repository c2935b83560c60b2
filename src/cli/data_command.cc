#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "src/cli/command.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/data/inspect.h"
#include "src/data/prepare.h"
#include "src/job/progress_line.h"

namespace mnemo {
namespace {

constexpr double kMegabyte = 1e6;

double PerSecond(int64_t bytes, double seconds) {
  return seconds > 0 ? static_cast<double>(bytes) / kMegabyte / seconds : 0;
}

std::string ProgressText(const PrepareProgress& progress) {
  const double read = static_cast<double>(progress.bytes_read);
  std::string text = fmt::format("{}: {:.1f}", progress.phase, read / kMegabyte);
  if (progress.bytes_total > 0) {
    const double total = static_cast<double>(progress.bytes_total);
    text += fmt::format(" of {:.1f} MB ({:.0f} %)", total / kMegabyte, 100 * read / total);
  } else {
    text += " MB";
  }
  text += fmt::format(", {:.1f} MB/s", PerSecond(progress.bytes_read, progress.seconds));
  if (progress.tokens > 0) {
    text += fmt::format(", {} documents, {} tokens, {} shards", progress.documents, progress.tokens,
                        progress.shards);
  }
  return text;
}

struct PrepareFlags {
  PrepareOptions options;
  std::string delimiter;
  bool has_delimiter = false;
  int64_t shard_mib = 256;
  int64_t sample_mib = 16;
  bool quiet = false;
  bool json = false;
};

void PrintSummary(const PrepareFlags& flags, const PrepareSummary& summary) {
  const double speed = PerSecond(summary.bytes, summary.seconds);
  const char* const splits[] = {"train", "eval"};
  if (flags.json) {
    nlohmann::ordered_json json = {{"out", flags.options.out},
                                   {"tokenizer", summary.tokenizer.kind},
                                   {"tokenizer_hash", summary.tokenizer.hash.Hex()},
                                   {"vocabulary", summary.tokenizer.vocabulary},
                                   {"text_bytes", summary.bytes},
                                   {"seconds", summary.seconds},
                                   {"megabytes_per_second", speed},
                                   {"resumed_shards", summary.resumed_shards},
                                   {"hidden_left_out", summary.hidden},
                                   {"binary_left_out", summary.binary}};
    for (int i = 0; i < 2; ++i) {
      json[splits[i]] = {{"shards", summary.shards[i]},
                         {"documents", summary.documents[i]},
                         {"tokens", summary.tokens[i]}};
    }
    fmt::print("{}\n", json.dump());
    return;
  }
  for (int i = 0; i < 2; ++i) {
    if (summary.shards[i] == 0) continue;
    fmt::print("{}/{}-*.h5: {} tokens in {} documents, {} shards\n", flags.options.out, splits[i],
               summary.tokens[i], summary.documents[i], summary.shards[i]);
  }
  if (summary.resumed_shards > 0)
    fmt::print("{} shards were there already\n", summary.resumed_shards);
  if (summary.hidden > 0) {
    fmt::print("left out: {} hidden files and directories (--hidden takes them)\n", summary.hidden);
  }
  if (summary.binary > 0) {
    fmt::print("left out: {} files that are no text (--binary takes them)\n", summary.binary);
  }
  fmt::print("tokenizer {}, vocabulary {}; {:.1f} MB of text in {:.1f} s, {:.1f} MB/s\n",
             summary.tokenizer.kind, summary.tokenizer.vocabulary,
             static_cast<double>(summary.bytes) / kMegabyte, summary.seconds, speed);
}

absl::Status RunPrepare(const PrepareFlags& flags) {
  PrepareOptions options = flags.options;
  if (flags.has_delimiter) options.input.delimiter = flags.delimiter;
  options.shard_bytes = flags.shard_mib << 20;
  options.sample_bytes = flags.sample_mib << 20;
  ProgressLine line = ProgressLine::ForStderr(0);
  ProgressCallback show = [&](const PrepareProgress& progress) {
    line.Show(ProgressText(progress), ProgressLine::Now());
  };
  if (flags.quiet) show = nullptr;
  const absl::StatusOr<PrepareSummary> summary = Prepare(FileSystem::Posix(), options, show);
  line.Finish();
  if (!summary.ok()) return summary.status();
  for (const std::string& path : summary->named_binary) {
    LogWarning("{} has NUL bytes: is it text?", path);
  }
  PrintSummary(flags, *summary);
  return absl::OkStatus();
}

void AddInputFlags(CLI::App* command, PrepareFlags& flags) {
  InputOptions& input = flags.options.input;
  command->add_option("inputs", input.paths, "Files, directories (recursive), - for standard input")
      ->required();
  command
      ->add_option("--include", input.include,
                   "Patterns of file names in directories, such as '*.h' (default: all)")
      ->allow_extra_args(false);
  command->add_option("--exclude", input.exclude, "Patterns of file names to leave out")
      ->allow_extra_args(false);
  command->add_flag("--hidden", input.hidden,
                    "Also what has a name with a leading dot, in directories");
  command->add_flag("--binary", input.binary, "Also files with NUL bytes, in directories");
  command->add_flag("--jsonl", input.jsonl,
                    "All inputs are JSONL (always so: *.jsonl and *.ndjson)");
  command->add_option("--field", input.field, "JSONL: the field with the text")
      ->capture_default_str();
  command->add_option("--delimiter", flags.delimiter,
                      "Plain text: lines that separate documents; '' for blank lines (default: a "
                      "file is a document)");
  command
      ->add_option_function<std::string>(
          "--invalid-utf8",
          [&flags](const std::string& name) {
            flags.options.invalid_utf8 = name == "replace" ? InvalidUtf8::kReplace
                                         : name == "skip"  ? InvalidUtf8::kSkip
                                                           : InvalidUtf8::kError;
          },
          "Bytes that are not UTF-8, where that is needed: error, replace (by U+FFFD) or skip "
          "(leave them out)")
      ->check(CLI::IsMember({"error", "replace", "skip"}))
      ->default_str("error");
}

void AddTokenizerFlags(CLI::App* command, PrepareFlags& flags) {
  PrepareOptions& options = flags.options;
  command->add_option("--tokenizer", options.tokenizer, "bytes or sentencepiece")
      ->check(CLI::IsMember({"bytes", "sentencepiece"}))
      ->capture_default_str();
  command->add_option("--tokenizer-model", options.tokenizer_model,
                      "SentencePiece: use this model (default: train one)");
  command->add_option("--vocabulary", options.train.vocabulary, "Training: pieces")
      ->capture_default_str();
  command->add_option("--type", options.train.type, "Training: unigram or bpe")
      ->check(CLI::IsMember({"unigram", "bpe"}))
      ->capture_default_str();
  command->add_option("--sample", flags.sample_mib, "Training: text to learn from, MiB")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--training-threads", options.train.threads,
                   "Training: threads; part of the result")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
}

void AddPrepare(CLI::App* data, Action& chosen) {
  auto flags = std::make_shared<PrepareFlags>();
  PrepareOptions& options = flags->options;
  CLI::App* command = data->add_subcommand(
      "prepare", "Tokenise text into shards. A run that was stopped goes on where it was.");
  AddInputFlags(command, *flags);
  AddTokenizerFlags(command, *flags);
  command->add_option("--out", options.out, "Directory to write")->required();
  command
      ->add_option("--holdout", options.holdout,
                   "Fraction of the documents that goes into eval-*.h5, chosen by their text")
      ->capture_default_str();
  command->add_option("--seed", options.seed, "Of the hold-out and the training sample")
      ->capture_default_str();
  command->add_option("--shard-size", flags->shard_mib, "Tokens of a shard, MiB")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--threads", options.threads, "Tokenising threads; 0: all cores")
      ->capture_default_str();
  command->add_flag("--overwrite", options.overwrite, "Replace other data in the directory");
  command->add_flag("--quiet", flags->quiet, "No progress");
  command->add_flag("--json", flags->json, "Print the summary as JSON");
  command->callback([command, flags, &chosen] {
    flags->has_delimiter = command->count("--delimiter") > 0;
    chosen = [flags] { return RunPrepare(*flags); };
  });
}

struct InspectFlags {
  std::vector<std::string> paths;
  bool verify = false;
};

void PrintFacts(const ShardFacts& facts) {
  const ShardHeader& header = facts.header;
  fmt::print("{}\n", facts.path);
  if (header.tokens > 0 || facts.status.ok()) {
    fmt::print("  tokens {}, documents {}, {} bytes a token, {} blocks, {:.1f} MB\n", header.tokens,
               header.documents, header.token_bytes(), header.token_blocks(),
               static_cast<double>(facts.file_bytes) / kMegabyte);
    fmt::print("  tokenizer {}, vocabulary {}, separator {}, hash {}\n", header.tokenizer.kind,
               header.tokenizer.vocabulary, header.tokenizer.separator,
               header.tokenizer.hash.Hex());
  }
  if (!facts.status.ok()) {
    fmt::print("  BAD: {}\n", std::string(facts.status.message()));
  } else if (facts.verified) {
    fmt::print("  verified: every digest matches\n");
  }
}

void AddInspect(CLI::App* data, Action& chosen) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = data->add_subcommand("inspect", "Say what shards hold.");
  command->add_option("shards", flags->paths, "Shards, or directories of them")->required();
  command->add_flag("--verify", flags->verify, "Read everything and check every digest");
  command->callback([flags, &chosen] {
    chosen = [flags] { return InspectShards(flags->paths, flags->verify, PrintFacts); };
  });
}

}  // namespace

void AddDataCommand(CLI::App& app, Action& chosen) {
  CLI::App* data = app.add_subcommand("data", "Prepare and inspect token shards.");
  data->require_subcommand(1);
  AddPrepare(data, chosen);
  AddInspect(data, chosen);
}

}  // namespace mnemo
