#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "src/cli/bench_command.h"
#include "src/cli/config_flags.h"
#include "src/job/recall_training.h"
#include "src/model/config_check.h"

namespace mnemo {
namespace {

struct RecallFlags {
  ConfigFlags config;
  RecallOptions options;
  std::string json;
};

nlohmann::json ToJson(const RecallReport& report) {
  return {{"step", report.step},
          {"loss", report.loss},
          {"accuracy", report.accuracy},
          {"seconds", report.seconds}};
}

absl::Status BenchRecall(const RecallFlags& flags) {
  MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.json));
  MNEMO_ASSIGN_OR_RETURN(RecallShape shape, CheckRecallShape(flags.options.shape));
  MNEMO_ASSIGN_OR_RETURN(v1::RunConfig written, flags.config.Load());
  // The task decides these, whatever the file says.
  written.mutable_model()->set_vocabulary(static_cast<int32_t>(shape.vocabulary()));
  written.mutable_train()->set_sequence_length(shape.length);
  written.mutable_train()->set_slice(0);
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig config, EffectiveConfig(written, flags.config.path));
  fmt::print("{} pairs, asked at least {} tokens later; chance {:.3f}\n", shape.pairs,
             shape.distance(), 1.0 / shape.values);
  MNEMO_ASSIGN_OR_RETURN(const RecallResult trained,
                         TrainRecall(config, flags.options, [](const RecallReport& report) {
                           fmt::print("step {:6}  loss {:.4f}  accuracy {:.3f}  {:.1f} s\n",
                                      report.step, report.loss, report.accuracy, report.seconds);
                           std::fflush(stdout);
                         }));
  nlohmann::json result = {{"bench", "recall"},
                           {"config", flags.config.path},
                           {"effective_config", config.ShortDebugString()},
                           {"length", shape.length},
                           {"pairs", shape.pairs},
                           {"distance", shape.distance()},
                           {"values", shape.values},
                           {"batch", flags.options.batch},
                           {"stop_at", flags.options.stop_at},
                           {"limit_seconds", flags.options.seconds}};
  for (const RecallReport& report : trained.reports) result["reports"].push_back(ToJson(report));
  return WriteBenchJson(flags.json, std::move(result));
}

}  // namespace

void AddBenchRecall(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<RecallFlags>();
  CLI::App* command = bench.add_subcommand(
      "recall", "Train a model on associative recall and report its accuracy on fresh data.");
  flags->config.AddConfigTo(*command);
  RecallShape& shape = flags->options.shape;
  command->add_option("--length", shape.length, "Tokens of a sequence")->capture_default_str();
  command->add_option("--pairs", shape.pairs, "Key-value pairs of a sequence")
      ->capture_default_str();
  command->add_option("--keys", shape.keys, "Symbols that serve as keys")->capture_default_str();
  command->add_option("--values", shape.values, "Symbols that serve as values")
      ->capture_default_str();
  command->add_option("--distractors", shape.distractors, "Symbols in between")
      ->capture_default_str();
  command
      ->add_option("--shown-until", shape.shown_until,
                   "Pairs lie before this token; 0: a quarter of the sequence")
      ->capture_default_str();
  command
      ->add_option("--asked-from", shape.asked_from,
                   "Questions lie from this token on; 0: half of the sequence")
      ->capture_default_str();
  command->add_option("--batch", flags->options.batch, "Sequences of a step")
      ->capture_default_str();
  command->add_option("--report-every", flags->options.report_every, "Steps between accuracies")
      ->capture_default_str();
  command
      ->add_option("--stop-at", flags->options.stop_at,
                   "End once this accuracy is reached; above 1: never")
      ->capture_default_str();
  command
      ->add_option("--seconds", flags->options.seconds,
                   "End once so much time has passed; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--json", flags->json, "Write the result to this file");
  command->callback([&chosen, flags] { chosen = [flags] { return BenchRecall(*flags); }; });
}

}  // namespace mnemo
