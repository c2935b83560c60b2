#include "tests/ckpt/disk_model.h"

#include <algorithm>

#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr size_t kSector = 64;  // small, as the files of tests are

// "/a/b/c" is "/a/b" and "c".
std::pair<std::string, std::string> Split(const std::string& path) {
  const size_t slash = path.rfind('/');
  MNEMO_CHECK(slash != path.npos, "{} is not absolute", path);
  return {path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

class DiskModel::File final : public WritableFile {
 public:
  File(DiskModel& disk, NodePtr node, std::string path)
      : disk_(disk), node_(std::move(node)), path_(std::move(path)) {}

  absl::Status Append(std::string_view bytes) override {
    return disk_.Call("append", path_, true, [&](bool done) {
      node_->bytes += done ? bytes : bytes.substr(0, bytes.size() / 2);
      return absl::OkStatus();
    });
  }
  absl::Status Sync() override {
    return disk_.Call("sync", path_, false, [&](bool done) {
      if (!done) node_->bytes_lost = true;
      if (!node_->bytes_lost) node_->durable = node_->bytes;
      return absl::OkStatus();
    });
  }
  absl::Status Close() override {
    return disk_.Call("close", path_, false, [](bool) { return absl::OkStatus(); });
  }

 private:
  DiskModel& disk_;
  NodePtr node_;
  std::string path_;
};

DiskModel::DiskModel() : root_(NewNode(true)) {}

void DiskModel::Inject(Fault fault, DiskPoint at) {
  fault_ = fault;
  at_ = std::move(at);
  Forget();
}

void DiskModel::MakeRoom() { full_ = false; }

std::vector<DiskPoint> DiskModel::points() const {
  const std::lock_guard lock(mutex_);
  return points_;
}

void DiskModel::Forget() {
  points_.clear();
  counts_.clear();
}

std::unique_ptr<DiskModel> DiskModel::AfterPowerCut(Left left, uint64_t seed) const {
  const std::lock_guard lock(mutex_);
  std::mt19937_64 random(seed);
  auto disk = std::make_unique<DiskModel>();
  disk->root_ = Restarted(*root_, left, random);
  return disk;
}

std::unique_ptr<DiskModel> DiskModel::Copy() const {
  const std::lock_guard lock(mutex_);
  std::map<const Node*, NodePtr> copies;
  auto disk = std::make_unique<DiskModel>();
  disk->root_ = CopyOf(root_, copies);
  return disk;
}

DiskModel::NodePtr DiskModel::NewNode(bool is_directory) {
  auto node = std::make_shared<Node>();
  node->is_directory = is_directory;
  return node;
}

void DiskModel::Apply(const Change& change, Entries& entries) {
  for (const auto& [name, node] : change) {
    if (node == nullptr) {
      entries.erase(name);
    } else {
      entries[name] = node;
    }
  }
}

void DiskModel::ChangeNames(Node& directory, Change change) {
  Apply(change, directory.entries);
  directory.unsynced.push_back(std::move(change));
}

// What was appended since the last sync arrives sector by sector, in any order, or as zeros where
// the length arrived and the contents did not.
std::string DiskModel::SomeBytes(const Node& file, Left left, std::mt19937_64& random) {
  if (left == Left::kNothing) return file.durable;
  if (left == Left::kEverything) return file.bytes;
  if (!file.bytes.starts_with(file.durable)) return random() % 2 ? file.durable : file.bytes;
  std::string bytes = file.bytes.substr(
      0, file.durable.size() + random() % (file.bytes.size() - file.durable.size() + 1));
  for (size_t begin = file.durable.size(); begin < bytes.size(); begin += kSector) {
    if (random() % 4 != 0) continue;
    const size_t end = std::min(begin + kSector, bytes.size());
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(begin),
              bytes.begin() + static_cast<std::ptrdiff_t>(end), '\0');
  }
  return bytes;
}

DiskModel::NodePtr DiskModel::Restarted(const Node& node, Left left, std::mt19937_64& random) {
  NodePtr restarted = NewNode(node.is_directory);
  if (!node.is_directory) {
    restarted->bytes = restarted->durable = SomeBytes(node, left, random);
    return restarted;
  }
  Entries entries = node.durable_entries;
  for (const Change& change : node.unsynced) {
    if (left == Left::kEverything || (left == Left::kSome && random() % 2)) Apply(change, entries);
  }
  for (const auto& [name, child] : entries) {
    restarted->entries[name] = Restarted(*child, left, random);
  }
  restarted->durable_entries = restarted->entries;
  return restarted;
}

DiskModel::NodePtr DiskModel::CopyOf(const NodePtr& node, std::map<const Node*, NodePtr>& copies) {
  if (node == nullptr) return nullptr;
  NodePtr& copy = copies[node.get()];
  if (copy != nullptr) return copy;
  const NodePtr made = copy = std::make_shared<Node>(*node);
  for (auto* entries : {&made->entries, &made->durable_entries}) {
    for (auto& [name, child] : *entries) child = CopyOf(child, copies);
  }
  for (Change& change : made->unsynced) {
    for (auto& [name, child] : change) child = CopyOf(child, copies);
  }
  return made;
}

DiskModel::Node* DiskModel::Find(const std::string& path) const {
  Node* node = root_.get();
  for (size_t begin = 1; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const auto found = node->entries.find(path.substr(begin, end - begin));
    if (found == node->entries.end()) return nullptr;
    node = found->second.get();
    begin = end + 1;
  }
  return node;
}

absl::StatusOr<std::pair<DiskModel::Node*, std::string>> DiskModel::FindParent(
    const std::string& path) const {
  const auto [parent, name] = Split(path);
  MNEMO_ASSIGN_OR_RETURN(Node* const node, FindDirectory(parent));
  return std::pair(node, name);
}

absl::StatusOr<DiskModel::Node*> DiskModel::FindFile(const std::string& path) const {
  Node* const node = Find(path);
  if (node == nullptr || node->is_directory) return NotFound("{} is not a file", path);
  return node;
}

absl::StatusOr<DiskModel::Node*> DiskModel::FindDirectory(const std::string& path) const {
  Node* const node = Find(path);
  if (node == nullptr || !node->is_directory) return NotFound("{} is not a directory", path);
  return node;
}

absl::Status DiskModel::Call(const char* call, const std::string& path, bool grows,
                             const std::function<absl::Status(bool)>& act) {
  const std::lock_guard lock(mutex_);
  const auto error = [&] {
    return absl::ResourceExhaustedError(fmt::format("injected: cannot {} {}", call, path));
  };
  if (dead_) return error();
  points_.push_back({call, path, counts_[{call, path}]++});
  const bool here = fault_ != Fault::kNone && points_.back() == at_;
  injected_ = injected_ || here;
  full_ = full_ || (here && fault_ == Fault::kFull);
  const std::string_view name = call;
  // By half: what an append and a failing sync leave behind. Other calls are done or not.
  if (full_ && (grows || here)) {
    if (name == "append") (void)act(false);
    return error();
  }
  if (!here) return act(true);
  if (fault_ == Fault::kFails) {
    if (name == "append" || name == "sync") (void)act(false);
    return error();
  }
  dead_ = fault_ == Fault::kDies;
  // Death in the midst of a sync has made nothing durable yet; that after it is the next call's.
  if (!dead_ || (name != "sync" && name != "sync directory")) (void)act(!dead_ || name != "append");
  return error();
}

absl::StatusOr<std::string> DiskModel::ReadFile(const std::string& path) {
  const std::lock_guard lock(mutex_);
  MNEMO_ASSIGN_OR_RETURN(const Node* const file, FindFile(path));
  return file->bytes;
}

absl::Status DiskModel::ReadRange(const std::string& path, int64_t offset, std::span<char> out) {
  const std::lock_guard lock(mutex_);
  MNEMO_ASSIGN_OR_RETURN(const Node* const file, FindFile(path));
  const auto begin = static_cast<size_t>(offset);
  if (begin + out.size() > file->bytes.size()) return DataLoss("{}: is truncated", path);
  std::copy_n(file->bytes.data() + begin, out.size(), out.data());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WritableFile>> DiskModel::Create(const std::string& path) {
  NodePtr node;
  MNEMO_RETURN_IF_ERROR(Call("create", path, true, [&](bool) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(const auto parent, FindParent(path));
    const auto found = parent.first->entries.find(parent.second);
    if (found == parent.first->entries.end()) {
      node = NewNode(false);
      ChangeNames(*parent.first, {{parent.second, node}});
    } else {
      node = found->second;
      node->bytes.clear();
    }
    return absl::OkStatus();
  }));
  return std::make_unique<File>(*this, node, path);
}

absl::StatusOr<std::unique_ptr<WritableFile>> DiskModel::OpenAppend(const std::string& path) {
  return FailedPrecondition("{}: no part of a checkpoint is appended to", path);
}

absl::StatusOr<int64_t> DiskModel::FileSize(const std::string& path) {
  const std::lock_guard lock(mutex_);
  MNEMO_ASSIGN_OR_RETURN(const Node* const file, FindFile(path));
  return static_cast<int64_t>(file->bytes.size());
}

bool DiskModel::Exists(const std::string& path) {
  const std::lock_guard lock(mutex_);
  return Find(path) != nullptr;
}

absl::StatusOr<std::vector<std::string>> DiskModel::List(const std::string& directory) {
  const std::lock_guard lock(mutex_);
  MNEMO_ASSIGN_OR_RETURN(const Node* const node, FindDirectory(directory));
  std::vector<std::string> names;
  for (const auto& [name, child] : node->entries) names.push_back(name);
  return names;
}

absl::Status DiskModel::MakeDirectory(const std::string& path) {
  return Call("mkdir", path, true, [&](bool) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(const auto parent, FindParent(path));
    ChangeNames(*parent.first, {{parent.second, NewNode(true)}});
    return absl::OkStatus();
  });
}

absl::Status DiskModel::MakeDirectories(const std::string& path) {
  for (size_t end = 1; end < path.size(); ++end) {
    end = std::min(path.find('/', end), path.size());
    const std::string part = path.substr(0, end);
    if (!Exists(part)) MNEMO_RETURN_IF_ERROR(MakeDirectory(part));
  }
  return absl::OkStatus();
}

absl::Status DiskModel::Rename(const std::string& from, const std::string& to) {
  return Call("rename", from, false, [&](bool) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(const auto source, FindParent(from));
    MNEMO_ASSIGN_OR_RETURN(const auto target, FindParent(to));
    MNEMO_CHECK(source.first == target.first, "{} is renamed into another directory", from);
    const auto found = source.first->entries.find(source.second);
    if (found == source.first->entries.end()) return NotFound("{} is not there", from);
    ChangeNames(*source.first, {{source.second, nullptr}, {target.second, found->second}});
    return absl::OkStatus();
  });
}

absl::Status DiskModel::Remove(const std::string& path) {
  return Call("remove", path, false, [&](bool) -> absl::Status {
    MNEMO_RETURN_IF_ERROR(FindFile(path).status());
    MNEMO_ASSIGN_OR_RETURN(const auto parent, FindParent(path));
    ChangeNames(*parent.first, {{parent.second, nullptr}});
    return absl::OkStatus();
  });
}

absl::Status DiskModel::RemoveDirectory(const std::string& path) {
  return Call("rmdir", path, false, [&](bool) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(const Node* const node, FindDirectory(path));
    if (!node->entries.empty()) return FailedPrecondition("{} is not empty", path);
    MNEMO_ASSIGN_OR_RETURN(const auto parent, FindParent(path));
    ChangeNames(*parent.first, {{parent.second, nullptr}});
    return absl::OkStatus();
  });
}

absl::Status DiskModel::SyncDirectory(const std::string& path) {
  return Call("sync directory", path, false, [&](bool) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(Node* const node, FindDirectory(path));
    node->durable_entries = node->entries;
    node->unsynced.clear();
    return absl::OkStatus();
  });
}

}  // namespace mnemo
