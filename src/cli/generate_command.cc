#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "src/cli/command.h"
#include "src/core/status.h"
#include "src/data/utf8.h"
#include "src/data/utf8_stream.h"
#include "src/model/execution.h"
#include "src/model/generator.h"
#include "src/model/saved_model.h"

namespace mnemo {
namespace {

struct GenerateOptions {
  std::string model, prompt, prompt_file;
  std::vector<std::string> overrides;
  int64_t tokens = 256;
  SamplingOptions sampling;
  bool past_end = false;
};

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

absl::StatusOr<std::string> ReadPrompt(const GenerateOptions& options) {
  if (options.prompt_file.empty()) return options.prompt;
  if (options.prompt_file == "-") {
    return std::string(std::istreambuf_iterator<char>(std::cin), {});
  }
  return FileSystem::Posix().ReadFile(options.prompt_file);
}

// What the stream of a training text would begin with: the end of a document, if there is no text.
absl::StatusOr<std::vector<int32_t>> PromptTokens(const GenerateOptions& options,
                                                  const Tokenizer& tokenizer) {
  MNEMO_ASSIGN_OR_RETURN(const std::string text, ReadPrompt(options));
  if (const size_t invalid = FirstInvalidUtf8(text);
      tokenizer.needs_utf8() && invalid < text.size()) {
    return InvalidArgument(
        "{}: not UTF-8 at byte {}, and the model's tokenizer needs that: convert the text",
        options.prompt_file.empty() ? "--prompt" : options.prompt_file, invalid);
  }
  std::vector<int32_t> tokens;
  MNEMO_RETURN_IF_ERROR(tokenizer.Encode(text, tokens));
  if (tokens.empty()) tokens.push_back(tokenizer.separator());
  return tokens;
}

absl::Status Print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return absl::UnavailableError("cannot write to standard output");
  }
  return absl::OkStatus();
}

// Produces and prints; returns how many tokens came. `state` becomes the most bytes of state.
absl::StatusOr<int64_t> Stream(const GenerateOptions& options, const Tokenizer& tokenizer,
                               Generator& generator, int64_t& state) {
  Utf8Stream text;
  int64_t count = 0;
  while (count < options.tokens) {
    const int32_t token = generator.Next();
    ++count;
    state = std::max(state, generator.StateBytes());
    if (token == tokenizer.separator() && !options.past_end) break;
    MNEMO_ASSIGN_OR_RETURN(const std::string bytes, tokenizer.DecodeOne(token));
    MNEMO_RETURN_IF_ERROR(Print(text.Add(bytes)));
  }
  MNEMO_RETURN_IF_ERROR(Print(text.Finish() + "\n"));
  return count;
}

absl::Status Generate(const GenerateOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const SavedModel model,
                         LoadModel(FileSystem::Posix(), options.model, options.overrides));
  ApplyExecution(model.config.execution());
  MNEMO_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                         PromptTokens(options, *model.tokenizer));
  Generator generator(model.spec, model.parameters, options.sampling,
                      model.tokenizer->vocabulary());
  auto begin = std::chrono::steady_clock::now();
  generator.Feed(prompt);
  const double prompt_seconds = SecondsSince(begin);
  const int64_t before = generator.StateBytes();
  int64_t most = before;
  begin = std::chrono::steady_clock::now();
  MNEMO_ASSIGN_OR_RETURN(const int64_t count, Stream(options, *model.tokenizer, generator, most));
  const double seconds = SecondsSince(begin);
  fmt::print(stderr, "prompt: {} tokens, {:.1f} tokens/s; generated: {} tokens, {:.1f} tokens/s\n",
             prompt.size(), static_cast<double>(prompt.size()) / prompt_seconds, count,
             static_cast<double>(count) / seconds);
  if (model.spec.full_attention()) {
    fmt::print(stderr,
               "state: {} bytes after the prompt, {} now: full attention keeps the keys and values "
               "of every token, and grows\n",
               before, generator.StateBytes());
  } else {
    const int64_t boundary =
        model.spec.layers * CarryBytes(model.spec, 1, model.parameters[0].dtype());
    fmt::print(stderr, "state: at most {} bytes in this run", most);
    if (const int64_t tokens = model.spec.alignment(); tokens > 1) {
      fmt::print(stderr, "; it swells within a {} of {} tokens and falls back to {} at its end",
                 model.spec.block == BlockKind::kMac ? "segment" : "chunk", tokens, boundary);
    }
    fmt::print(stderr, "; the same however long the text\n");
  }
  return absl::OkStatus();
}

void AddSamplingFlags(CLI::App& command, SamplingOptions& sampling) {
  command
      .add_option("--temperature", sampling.temperature,
                  "Of the sampling; 0: always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "Only the k likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--top-p", sampling.top_p,
                  "Only the likeliest tokens whose probabilities reach this share")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--seed", sampling.seed, "Of the sampling")->capture_default_str();
}

}  // namespace

void AddGenerateCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command =
      app.add_subcommand("generate", "Continue a prompt, token by token, to standard output.");
  command
      ->add_option("--model", options->model,
                   "Model directory, or a checkpoint, or a run, whose newest checkpoint is taken")
      ->required()
      ->type_name("DIR");
  CLI::Option* text = command->add_option("--prompt", options->prompt, "Text to continue");
  command
      ->add_option("--prompt-file", options->prompt_file, "The same from a file; -: standard input")
      ->type_name("FILE")
      ->excludes(text);
  command->add_option("--tokens", options->tokens, "Tokens to generate at most")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  AddSamplingFlags(*command, options->sampling);
  command->add_flag("--past-end", options->past_end, "Go on where the model ends a document");
  command->add_option("--set", options->overrides, "execution.FIELD=VALUE, such as threads")
      ->type_name("PATH=VALUE");
  command->callback([&chosen, options] { chosen = [options] { return Generate(*options); }; });
}

}  // namespace mnemo
