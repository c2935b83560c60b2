#include "src/data/token_set.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "src/core/file_system.h"
#include "src/core/status.h"
#include "src/data/prepare_manifest.h"

namespace mnemo {
namespace {

namespace stdfs = std::filesystem;

constexpr int kMostOpenFiles = 256;  // below the usual limit of 1,024 descriptors

absl::StatusOr<std::vector<std::string>> ListShards(const std::string& directory,
                                                    const std::string& pattern) {
  MNEMO_ASSIGN_OR_RETURN(std::vector<std::string> names, FileSystem::Posix().List(directory));
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (fnmatch(pattern.c_str(), name.c_str(), 0) == 0) found.push_back(name);
  }
  return found;
}

absl::StatusOr<std::vector<std::string>> ResolveDirectory(const std::string& directory,
                                                          ShardRole role) {
  MNEMO_ASSIGN_OR_RETURN(std::optional<PrepareManifest> manifest,
                         PrepareManifest::Load(FileSystem::Posix(), directory));
  if (manifest.has_value() && !manifest->complete) {
    return FailedPrecondition(
        "{}: preparing this data has not finished: run the same `mnemo data prepare` again, or "
        "name single shards",
        directory);
  }
  MNEMO_ASSIGN_OR_RETURN(std::vector<std::string> names, ListShards(directory, "*.h5"));
  const auto held_out = [](const std::string& name) { return name.starts_with("eval-"); };
  const bool any_held_out = std::any_of(names.begin(), names.end(), held_out);
  if (role == ShardRole::kTraining || any_held_out) {
    std::erase_if(names, [&](const std::string& name) {
      return held_out(name) != (role == ShardRole::kEvaluation);
    });
  }
  if (manifest.has_value()) {
    const Split split = role == ShardRole::kEvaluation && any_held_out ? kEval : kTrain;
    for (const FinishedShard& shard : manifest->splits[split].shards) {
      if (std::find(names.begin(), names.end(), shard.file) == names.end()) {
        return NotFound("{}: shard {} is missing, {} names it", directory, shard.file,
                        kPrepareManifest);
      }
    }
  }
  return names;
}

// The one name of a file that exists.
std::string CanonicalPath(const std::string& path) {
  std::error_code error;
  return stdfs::canonical(path, error).string();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ResolveShards(const std::vector<std::string>& paths,
                                                       ShardRole role) {
  const char* what = role == ShardRole::kTraining ? "training" : "evaluation";
  if (paths.empty()) return InvalidArgument("no {} shards are given", what);
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (stdfs::is_regular_file(path, error)) {
      files.push_back(path);
      continue;
    }
    const bool directory = stdfs::is_directory(path, error);
    stdfs::path parent = directory ? stdfs::path(path) : stdfs::path(path).parent_path();
    if (parent.empty()) parent = ".";
    std::vector<std::string> names;
    if (directory) {
      MNEMO_ASSIGN_OR_RETURN(names, ResolveDirectory(path, role));
    } else if (path.find_first_of("*?[") != std::string::npos) {
      MNEMO_ASSIGN_OR_RETURN(names,
                             ListShards(parent.string(), stdfs::path(path).filename().string()));
    } else {
      return NotFound("{} shard {} does not exist", what, path);
    }
    if (names.empty()) return NotFound("{} holds no {} shard", path, what);
    for (const std::string& name : names) files.push_back((parent / name).string());
  }
  return files;
}

std::string FirstSharedShard(const std::vector<std::string>& training,
                             const std::vector<std::string>& evaluation) {
  std::set<std::string> trained;
  for (const std::string& file : training) trained.insert(CanonicalPath(file));
  for (const std::string& file : evaluation) {
    if (trained.contains(CanonicalPath(file))) return file;
  }
  return "";
}

absl::StatusOr<std::unique_ptr<TokenSet>> TokenSet::Open(const std::vector<std::string>& paths,
                                                         ShardRole role) {
  MNEMO_ASSIGN_OR_RETURN(std::vector<std::string> files, ResolveShards(paths, role));
  auto set = std::make_unique<TokenSet>();
  set->starts_.push_back(0);
  std::set<std::string> seen;
  for (const std::string& file : files) {
    if (!seen.insert(CanonicalPath(file)).second) {
      return InvalidArgument("shard {} is given twice", file);
    }
    const bool keep_open = files.size() <= kMostOpenFiles;
    MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<ShardReader> shard, ShardReader::Open(file, keep_open));
    const ShardHeader& header = shard->header();
    if (!set->shards_.empty() && header.tokenizer != set->tokenizer()) {
      const ShardTokenizer& first = set->tokenizer();
      return InvalidArgument(
          "{} and {} were made with different tokenizers ({} {}, vocabulary {}; {} {}, vocabulary "
          "{}): prepare them with the same one",
          set->shards_[0]->path(), file, first.kind, first.hash.Hex(), first.vocabulary,
          header.tokenizer.kind, header.tokenizer.hash.Hex(), header.tokenizer.vocabulary);
    }
    set->starts_.push_back(set->starts_.back() + header.tokens);
    set->documents_ += header.documents;
    set->shards_.push_back(std::move(shard));
  }
  return set;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenSet::LoadTokenizer() const {
  MNEMO_ASSIGN_OR_RETURN(std::string model, shards_[0]->ReadTokenizerModel());
  return MakeTokenizer(tokenizer().kind, std::move(model));
}

std::vector<std::string> TokenSet::files() const {
  std::vector<std::string> files;
  for (const std::unique_ptr<ShardReader>& shard : shards_) files.push_back(shard->path());
  return files;
}

absl::Status TokenSet::ReadTokens(int64_t first, std::span<int32_t> out) const {
  if (first < 0 || static_cast<int64_t>(out.size()) > tokens() - first) {
    return InvalidArgument("tokens [{}, {}) lie outside the data set's {}", first,
                           first + static_cast<int64_t>(out.size()), tokens());
  }
  auto next = std::upper_bound(starts_.begin(), starts_.end(), first);
  while (!out.empty()) {
    const size_t shard = static_cast<size_t>(next - starts_.begin()) - 1;
    const size_t take = std::min(out.size(), static_cast<size_t>(*next - first));
    MNEMO_RETURN_IF_ERROR(shards_[shard]->ReadTokens(first - starts_[shard], out.first(take)));
    out = out.subspan(take);
    first += static_cast<int64_t>(take);
    ++next;
  }
  return absl::OkStatus();
}

}  // namespace mnemo
