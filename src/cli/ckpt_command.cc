#include <fmt/chrono.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/ckpt/checkpoint_difference.h"
#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/checkpoint_retention.h"
#include "src/ckpt/manifest.h"
#include "src/cli/command.h"
#include "src/core/config_text.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kExitDifferent = 1;  // of `ckpt diff`, where an error is kExitNoAnswer

struct CkptFlags {
  std::string path, other;
  bool json = false, tensors = false, config = false;
  RetentionRule rule;
  bool dry_run = false;
};

std::string Megabytes(int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

std::string TimeText(int64_t unix_seconds) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(unix_seconds)));
}

const char* Name(CheckpointState state) {
  switch (state) {
    case CheckpointState::kWhole:
      return "whole";
    case CheckpointState::kDamaged:
      return "damaged";
    case CheckpointState::kLeftover:
      return "leftover";
  }
  return "";
}

// Where it was measured.
void AddLoss(const v1::TrainingState& training, Json& json) {
  if (training.has_evaluation_loss()) json["evaluation_loss"] = training.evaluation_loss();
}
std::string LossText(const v1::TrainingState& training) {
  if (!training.has_evaluation_loss()) return "";
  return fmt::format(", held-out loss {:.4f}", training.evaluation_loss());
}

absl::Status List(const CkptFlags& flags) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const std::string checkpoints, FindCheckpoints(fs, flags.path));
  MNEMO_ASSIGN_OR_RETURN(const auto entries, ListCheckpoints(fs, checkpoints));
  Json list = Json::array();
  for (const CheckpointEntry& entry : entries) {
    const v1::CheckpointManifest& manifest = entry.manifest;
    const bool whole = entry.state == CheckpointState::kWhole;
    if (flags.json) {
      Json& json = list.emplace_back(
          Json{{"path", entry.path}, {"step", entry.name.step}, {"state", Name(entry.state)}});
      if (whole) {
        json["created"] = TimeText(manifest.created_unix_seconds());
        json["files"] = manifest.files_size();
        json["bytes"] = CheckpointBytes(manifest);
        AddLoss(manifest.training(), json);
      } else {
        json["problem"] = entry.problem.message();
      }
      continue;
    }
    const std::string facts =
        whole ? fmt::format("{}  {} in {} files{}", TimeText(manifest.created_unix_seconds()),
                            Megabytes(CheckpointBytes(manifest)), manifest.files_size(),
                            LossText(manifest.training()))
              : std::string(entry.problem.message());
    fmt::print("{:<24} {:<8}  {}\n", ToString(entry.name), Name(entry.state), facts);
  }
  if (flags.json) {
    fmt::print("{}\n", list.dump());
  } else if (entries.empty()) {
    fmt::print("no checkpoints in {}\n", checkpoints);
  }
  return absl::OkStatus();
}

int64_t BytesOf(const v1::CheckpointTensor& tensor) {
  return ElementCount(ShapeOf(tensor)) * SizeOf(DTypeOf(tensor));
}

Json TrainingJson(const v1::TrainingState& training) {
  Json json = {{"step", training.step()},
               {"updates", training.updates()},
               {"skipped", training.skipped()},
               {"seed", training.seed()},
               {"tokens_seen", training.tokens_seen()},
               {"next_sample", training.next_sample()},
               {"finished", training.finished()}};
  AddLoss(training, json);
  return json;
}

void ShowJson(const CheckpointReader& reader) {
  const v1::CheckpointManifest& manifest = reader.manifest();
  const v1::Mesh& mesh = manifest.plan().mesh();
  Json json = {{"path", reader.directory()},
               {"format_version", manifest.format_version()},
               {"writer", manifest.writer()},
               {"created", TimeText(manifest.created_unix_seconds())},
               {"training", TrainingJson(manifest.training())},
               {"mesh", {{"dp", mesh.dp()}, {"sp", mesh.sp()}, {"tp", mesh.tp()}}},
               {"files", Json::array()},
               {"tensors", Json::array()}};
  for (const v1::CheckpointFile& file : manifest.files()) {
    json["files"].push_back(
        {{"path", file.path()}, {"rank", file.rank()}, {"bytes", file.bytes()}});
  }
  for (const v1::CheckpointTensor& tensor : manifest.tensors()) {
    json["tensors"].push_back(
        {{"name", tensor.name()},
         {"dtype", Name(DTypeOf(tensor))},
         {"shape", std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())},
         {"pieces", tensor.pieces_size()}});
  }
  fmt::print("{}\n", json.dump());
}

void ShowText(const CheckpointReader& reader, bool tensors) {
  const v1::CheckpointManifest& manifest = reader.manifest();
  const v1::TrainingState& training = manifest.training();
  const v1::Mesh& mesh = manifest.plan().mesh();
  fmt::print("{}\n", reader.directory());
  fmt::print("  format version {}, written {} by {}\n", manifest.format_version(),
             TimeText(manifest.created_unix_seconds()), manifest.writer());
  fmt::print("  step {}: {} updates, {} skipped, {} tokens seen, seed {}{}{}\n", training.step(),
             training.updates(), training.skipped(), training.tokens_seen(), training.seed(),
             LossText(training), training.finished() ? ", finished" : "");
  fmt::print("  mesh dp {}, sp {}, tp {}; {} in {} files\n", mesh.dp(), mesh.sp(), mesh.tp(),
             Megabytes(CheckpointBytes(manifest)), manifest.files_size());
  struct Group {
    int64_t tensors = 0, elements = 0, bytes = 0;
  };
  std::map<std::string, Group> groups;
  for (const v1::CheckpointTensor& tensor : manifest.tensors()) {
    Group& group = groups[tensor.name().substr(0, tensor.name().find('/'))];
    ++group.tensors;
    group.elements += ElementCount(ShapeOf(tensor));
    group.bytes += BytesOf(tensor);
    if (tensors) {
      fmt::print("  {:<48} {:<5} {}, {} pieces\n", tensor.name(), Name(DTypeOf(tensor)),
                 ShapeOf(tensor), tensor.pieces_size());
    }
  }
  for (const auto& [name, group] : groups) {
    fmt::print("  {}: {} elements in {} tensors, {}\n", name, group.elements, group.tensors,
               Megabytes(group.bytes));
  }
}

absl::Status Show(const CkptFlags& flags) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const std::string directory, FindCheckpoint(fs, flags.path));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(fs, directory));
  if (flags.config) {
    fmt::print("{}", PrintConfigText(reader.manifest().config()));
  } else if (flags.json) {
    ShowJson(reader);
  } else {
    ShowText(reader, flags.tensors);
  }
  return absl::OkStatus();
}

absl::Status Verify(const CkptFlags& flags) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const std::string directory, FindCheckpoint(fs, flags.path));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointVerification result, VerifyCheckpoint(fs, directory));
  if (flags.json) {
    const Json json = {{"path", directory},
                       {"whole", result.problems.empty()},
                       {"files", result.files},
                       {"bytes", result.bytes},
                       {"pieces", result.pieces},
                       {"problems", result.problems},
                       {"strangers", result.strangers}};
    fmt::print("{}\n", json.dump());
  } else {
    for (const std::string& problem : result.problems) fmt::print("BAD: {}\n", problem);
    for (const std::string& name : result.strangers) {
      fmt::print("note: {}/{} is not part of the checkpoint\n", directory, name);
    }
    fmt::print("{}: {} files, {} pieces, {} read\n", directory, result.files, result.pieces,
               Megabytes(result.bytes));
  }
  if (result.problems.empty()) {
    if (!flags.json) fmt::print("verified: every digest matches\n");
    return absl::OkStatus();
  }
  return DataLoss(
      "{} is damaged ({} problems); use an older checkpoint, `mnemo ckpt ls` lists them", directory,
      result.problems.size());
}

Json ToJson(const std::vector<ConfigDifference>& list) {
  Json json = Json::array();
  for (const ConfigDifference& d : list) {
    json.push_back({{"path", d.path}, {"first", d.before}, {"second", d.after}});
  }
  return json;
}

// Numbers that JSON has no form for come as null.
void DiffJson(const CheckpointReader& a, const CheckpointReader& b,
              const CheckpointDifference& found) {
  Json json = {{"first", a.directory()},
               {"second", b.directory()},
               {"equal", found.none()},
               {"compared", found.compared},
               {"config", ToJson(found.config)},
               {"training", ToJson(found.training)},
               {"tokenizer", ToJson(found.tokenizer)},
               {"tensors", Json::array()}};
  for (const TensorDifference& d : found.tensors) {
    Json& tensor = json["tensors"].emplace_back(Json{{"name", d.name}});
    if (d.kind.empty()) {
      tensor["elements"] = d.elements;
      tensor["largest"] = d.largest;
      tensor["relative"] = d.relative;
    } else {
      tensor["kind"] = d.kind;
    }
  }
  fmt::print("{}\n", json.dump());
}

void DiffText(const CheckpointDifference& found) {
  const auto settings = [](const char* group, const std::vector<ConfigDifference>& list) {
    for (const ConfigDifference& d : list) {
      fmt::print("{}{}: {} and {}\n", group, d.path, d.before, d.after);
    }
  };
  settings("", found.config);
  settings("training.", found.training);
  settings("tokenizer.", found.tokenizer);
  for (const TensorDifference& d : found.tensors) {
    fmt::print("{:<48} {}\n", d.name,
               d.kind.empty() ? fmt::format("{} elements, max |a-b| {:.3g}, relative {:.3g}",
                                            d.elements, d.largest, d.relative)
                              : d.kind);
  }
  if (found.none()) fmt::print("equal: {} tensors, bit by bit\n", found.compared);
}

// The exit code.
absl::StatusOr<int> Diff(const CkptFlags& flags) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const std::string first, FindCheckpoint(fs, flags.path));
  MNEMO_ASSIGN_OR_RETURN(const std::string second, FindCheckpoint(fs, flags.other));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointReader a, CheckpointReader::Open(fs, first));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointReader b, CheckpointReader::Open(fs, second));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointDifference found, CompareCheckpoints(a, b));
  if (flags.json) {
    DiffJson(a, b, found);
  } else {
    DiffText(found);
  }
  return found.none() ? kExitOk : kExitDifferent;
}

absl::Status Prune(const CkptFlags& flags) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const std::string checkpoints, FindCheckpoints(fs, flags.path));
  MNEMO_ASSIGN_OR_RETURN(const auto entries, ListCheckpoints(fs, checkpoints));
  MNEMO_ASSIGN_OR_RETURN(const auto superfluous, FindSuperfluous(entries, flags.rule));
  Json removed = Json::array();
  int64_t bytes = 0;
  for (const CheckpointEntry* entry : superfluous) {
    const int64_t freed = RemovableBytes(fs, entry->path);
    if (!flags.dry_run) MNEMO_RETURN_IF_ERROR(RemoveCheckpoint(fs, entry->path));
    removed.push_back(entry->path);
    bytes += freed;
    if (!flags.json) {
      fmt::print("{}{} ({}, {})\n", flags.dry_run ? "would remove " : "removed ", entry->path,
                 Name(entry->state), Megabytes(freed));
    }
  }
  if (flags.json) {
    fmt::print("{}\n",
               Json{{"removed", removed}, {"bytes", bytes}, {"dry_run", flags.dry_run}}.dump());
  } else if (removed.empty()) {
    fmt::print("nothing to remove in {}\n", checkpoints);
  }
  return absl::OkStatus();
}

CLI::App* AddSubcommand(CLI::App* ckpt, const char* name, const char* help, const char* path,
                        CkptFlags& flags) {
  CLI::App* command = ckpt->add_subcommand(name, help);
  command->add_option("path", flags.path, path)->required()->type_name("DIR");
  command->add_flag("--json", flags.json, "Print JSON");
  return command;
}

CLI::App* AddSubcommand(CLI::App* ckpt, const char* name, const char* help, const char* path,
                        absl::Status (*run)(const CkptFlags&),
                        const std::shared_ptr<CkptFlags>& flags, Action& chosen) {
  CLI::App* command = AddSubcommand(ckpt, name, help, path, *flags);
  command->callback([&chosen, run, flags] { chosen = [run, flags] { return run(*flags); }; });
  return command;
}

void AddDiff(CLI::App* ckpt, const char* path, const std::shared_ptr<CkptFlags>& flags,
             Action& chosen) {
  CLI::App* command = AddSubcommand(
      ckpt, "diff",
      "Compare two checkpoints bit by bit, whatever meshes wrote them: tensors, configuration, "
      "data position. Ends with 0 if they are equal, 1 if they differ, 3 if that cannot be said: "
      "one is not there, is damaged or cannot be read.",
      path, *flags);
  command->add_option("other", flags->other, "The same")->required()->type_name("DIR");
  command->callback(
      [&chosen, flags] { chosen = Action([flags] { return Diff(*flags); }, kExitNoAnswer); });
}

}  // namespace

void AddCkptCommand(CLI::App& app, Action& chosen) {
  CLI::App* ckpt =
      app.add_subcommand("ckpt", "List, show, verify, compare and remove checkpoints.");
  ckpt->require_subcommand(1);
  auto flags = std::make_shared<CkptFlags>();
  constexpr const char* kOne =
      "A checkpoint; of a run or a directory of them, the newest whole one";
  AddSubcommand(ckpt, "ls", "Say which checkpoints there are and which are whole.",
                "A run, or a directory of checkpoints", List, flags, chosen);
  CLI::App* show =
      AddSubcommand(ckpt, "show", "Say what a checkpoint holds.", kOne, Show, flags, chosen);
  show->add_flag("--tensors", flags->tensors, "List every tensor");
  show->add_flag("--config", flags->config, "Print the run's effective configuration instead");
  AddSubcommand(ckpt, "verify", "Read everything and check every digest.", kOne, Verify, flags,
                chosen);
  AddDiff(ckpt, kOne, flags, chosen);
  CLI::App* prune = AddSubcommand(
      ckpt, "prune",
      "Remove whole checkpoints beyond those that are to stay, and half removed ones.",
      "A run, or a directory of checkpoints", Prune, flags, chosen);
  prune->add_option("--keep", flags->rule.last, "How many of the newest stay")
      ->required()
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("N");
  prune->add_option("--every", flags->rule.every, "Steps whose multiples stay as well; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->type_name("K");
  prune->add_flag("--best", flags->rule.best,
                  "The one with the least held-out loss stays as well, of those that have one");
  prune->add_flag("--damaged", flags->rule.damaged,
                  "Remove those that are damaged, or of another format version, as well");
  prune->add_flag("--dry-run", flags->dry_run, "Only say what would be removed");
}

}  // namespace mnemo
