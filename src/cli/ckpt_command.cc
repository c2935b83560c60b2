#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/ckpt/checkpoint_difference.h"
#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/checkpoint_reshard.h"
#include "src/ckpt/checkpoint_retention.h"
#include "src/ckpt/manifest.h"
#include "src/cli/ckpt_report.h"
#include "src/cli/command.h"
#include "src/core/config_text.h"
#include "src/core/status.h"
#include "src/job/progress_line.h"
#include "src/job/run_directory.h"

namespace mnemo {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kExitDifferent = 1;  // of `ckpt diff`, where an error is kExitNoAnswer

struct CkptFlags {
  std::string path, other, to;
  int files = 0;
  bool json = false, tensors = false, config = false;
  RetentionRule rule;
  bool dry_run = false;
};

// Paths need not be UTF-8, which JSON is.
void PrintJson(const Json& json) {
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// Through links, without a slash at its end.
std::filesystem::path Canonical(const std::string& path) {
  const auto canonical = std::filesystem::weakly_canonical(std::filesystem::path(path) / ".");
  return canonical.has_filename() ? canonical : canonical.parent_path();
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
        AddHeldOutLoss(manifest.training(), json);
      } else {
        json["problem"] = entry.problem.message();
      }
      continue;
    }
    const std::string facts =
        whole ? fmt::format("{}  {} in {} files{}", TimeText(manifest.created_unix_seconds()),
                            Megabytes(CheckpointBytes(manifest)), manifest.files_size(),
                            HeldOutLossText(manifest.training()))
              : std::string(entry.problem.message());
    fmt::print("{:<24} {:<8}  {}\n", ToString(entry.name), Name(entry.state), facts);
  }
  if (flags.json) {
    PrintJson(list);
  } else if (entries.empty()) {
    fmt::print("no checkpoints in {}\n", checkpoints);
  }
  return absl::OkStatus();
}

absl::Status Show(const CkptFlags& flags) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const std::string directory, FindCheckpoint(fs, flags.path));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(fs, directory));
  if (flags.config) {
    fmt::print("{}", PrintConfigText(reader.manifest().config()));
  } else if (flags.json) {
    PrintJson(CheckpointJson(reader));
  } else {
    PrintCheckpoint(reader, flags.tensors);
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
    PrintJson(json);
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
      "{} is damaged in {} place{}; use an older checkpoint, `mnemo ckpt ls` lists them", directory,
      result.problems.size(), result.problems.size() == 1 ? "" : "s");
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
    PrintJson(DifferenceJson(a, b, found));
  } else {
    PrintDifference(found);
  }
  return found.none() ? kExitOk : kExitDifferent;
}

// The run whose checkpoints these are; nothing if they are in no run's directory.
std::optional<std::string> RunOf(const std::string& checkpoints) {
  const std::filesystem::path path = Canonical(checkpoints);
  if (path.filename() != kCheckpointsName) return std::nullopt;
  return path.parent_path().string();
}

struct Target {
  RunDirectory run;  // locked
  std::string checkpoints;
};

// Where a checkpoint that is written anew goes to.
absl::StatusOr<Target> TargetOf(FileSystem& fs, const CheckpointReader& from,
                                const std::string& to) {
  const std::filesystem::path given = Canonical(from.directory());
  const auto name = ParseCheckpointName(given.filename().string());
  const std::optional<std::string> own = RunOf(given.parent_path());
  const bool in_place = own && (to.empty() || Canonical(to) == *own);
  const bool named =
      name && !name->temporary && !name->damaged && name->step == from.manifest().training().step();
  if (in_place ? !named : to.empty()) {
    return InvalidArgument(
        "{} is not a checkpoint of a run, RUN/{}/step-N, whose place another could take: name a "
        "run's directory to write into with --to",
        from.directory(), kCheckpointsName);
  }
  MNEMO_ASSIGN_OR_RETURN(RunDirectory run, RunDirectory::Open(fs, in_place ? *own : to));
  const std::string checkpoints = run.checkpoints_path();
  if (!in_place) {
    MNEMO_ASSIGN_OR_RETURN(const auto entries, ListCheckpoints(fs, checkpoints));
    if (!entries.empty() || run.HasMetrics() || run.HasModel()) {
      return FailedPrecondition(
          "{} holds a run already, whose place this is: name another directory with --to",
          run.path());
    }
  }
  return Target{std::move(run), checkpoints};
}

absl::Status Reshard(const CkptFlags& flags) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const std::string from, FindCheckpoint(fs, flags.path));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(fs, from));
  MNEMO_ASSIGN_OR_RETURN(const Target target, TargetOf(fs, reader, flags.to));
  int64_t all = 0;
  for (const v1::CheckpointTensor& tensor : reader.manifest().tensors()) all += BytesOf(tensor);
  ProgressLine line = ProgressLine::ForStderr(0);
  const auto show = [&](int64_t bytes) {
    line.Show(fmt::format("{} of {} written", Megabytes(bytes), Megabytes(all)),
              ProgressLine::Now(), bytes == all);
  };
  const auto directory = ReshardCheckpoint(fs, reader, target.checkpoints,
                                           {.files = flags.files, .on_progress = show});
  line.Finish();
  MNEMO_RETURN_IF_ERROR(directory.status());
  MNEMO_ASSIGN_OR_RETURN(const CheckpointReader written, CheckpointReader::Open(fs, *directory));
  const int64_t bytes = CheckpointBytes(written.manifest());
  const int files = written.manifest().files_size();
  if (flags.json) {
    PrintJson(Json{{"from", from}, {"path", *directory}, {"files", files}, {"bytes", bytes}});
  } else {
    fmt::print("{}: {} in {} files, from {}\n", *directory, Megabytes(bytes), files,
               reader.manifest().files_size());
  }
  return absl::OkStatus();
}

absl::Status Prune(const CkptFlags& flags) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const std::string checkpoints, FindCheckpoints(fs, flags.path));
  MNEMO_ASSIGN_OR_RETURN(const auto entries, ListCheckpoints(fs, checkpoints));
  // Where a run is going on, what looks like a leftover may be a save.
  RetentionRule rule = flags.rule;
  absl::StatusOr<RunDirectory> lock = absl::CancelledError();
  if (const auto run = RunOf(checkpoints)) lock = RunDirectory::Open(fs, *run);
  rule.leftovers = lock.ok();
  MNEMO_ASSIGN_OR_RETURN(const auto superfluous, FindSuperfluous(entries, rule));
  absl::Status status;
  Json removed = Json::array();
  int64_t bytes = 0;
  for (const CheckpointEntry* entry : superfluous) {
    const int64_t freed = RemovableBytes(fs, entry->path);
    if (!flags.dry_run) {
      const absl::Status gone = RemoveCheckpoint(fs, entry->path);
      status.Update(gone);
      if (!gone.ok()) continue;
    }
    removed.push_back(entry->path);
    bytes += freed;
    if (!flags.json) {
      fmt::print("{}{} ({}, {})\n", flags.dry_run ? "would remove " : "removed ", entry->path,
                 Name(entry->state), Megabytes(freed));
    }
  }
  if (flags.json) {
    PrintJson(Json{{"removed", removed}, {"bytes", bytes}, {"dry_run", flags.dry_run}});
  } else if (removed.empty() && status.ok()) {
    fmt::print("nothing to remove in {}\n", checkpoints);
  }
  return status;
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

void AddReshard(CLI::App* ckpt, const char* path, const std::shared_ptr<CkptFlags>& flags,
                Action& chosen) {
  CLI::App* command = AddSubcommand(
      ckpt, "reshard",
      "Write a checkpoint anew in another number of files, of about equal size, to archive it in "
      "one or to let many ranks read it from many. Every digest is checked on the way. No run "
      "needs this: a checkpoint of any ranks can be read by any others.",
      path, Reshard, flags, chosen);
  command->add_option("--files", flags->files, "How many")
      ->required()
      ->check(CLI::Range(1, 100'000))
      ->type_name("N");
  command
      ->add_option("--to", flags->to,
                   "Directory of no run yet, made if need be, that gets it; a run can go on there. "
                   "Default: it takes the place of the old one when it is whole")
      ->type_name("RUN");
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
      app.add_subcommand("ckpt", "List, show, verify, compare, reshard and remove checkpoints.");
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
  AddReshard(ckpt, kOne, flags, chosen);
  CLI::App* prune = AddSubcommand(
      ckpt, "prune",
      "Remove whole checkpoints beyond those that are to stay, and, where no run is going on, what "
      "interrupted saves and removals have left.",
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
