// A file system in memory with a disk below it: what is written and not yet synced may be lost when
// the power goes. Every call that changes something can be made to fail.
//
// As strict as POSIX allows: syncing a file makes its bytes durable and not its name; a name that
// is made, renamed or removed is durable once its directory is synced, and until then either way,
// each by itself. Bytes that a failed sync was to make durable may be gone for good.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/core/file_system.h"

namespace mnemo {

// A call that changes something, told apart from all others in a way that does not depend on the
// order in which threads come by: the n-th such call on its path.
struct DiskPoint {
  std::string call;  // create, append, sync, close, mkdir, rename, remove, rmdir, sync directory
  std::string path;
  int n = 0;
  auto operator<=>(const DiskPoint&) const = default;
};

// Thread-safe.
class DiskModel final : public FileSystem {
 public:
  enum class Fault {
    kNone,
    kFails,      // the call does nothing and fails (an append writes half); what follows works
    kFailsLate,  // the call does what it should, and fails all the same
    kFull,       // from this call on there is no room for a name or a byte, until MakeRoom()
    kDies,       // the call is begun, and it and all that follow fail: power cut, or kill -9
  };
  // What of the unsynced is there after a power cut. kSome: names, and sectors of files, at random.
  enum class Left { kNothing, kEverything, kSome };

  DiskModel();  // "/" is there

  void Inject(Fault fault, DiskPoint at);
  bool injected() const { return injected_; }  // whether that call came
  void MakeRoom();
  std::vector<DiskPoint> points() const;  // all calls since the start, or since Forget()
  void Forget();
  // The machine is started again; `seed` decides for kSome.
  std::unique_ptr<DiskModel> AfterPowerCut(Left left, uint64_t seed) const;
  std::unique_ptr<DiskModel> Copy() const;  // without what is injected

  absl::StatusOr<std::string> ReadFile(const std::string& path) override;
  absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override;
  absl::StatusOr<int64_t> FileSize(const std::string& path) override;
  bool Exists(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override;
  absl::Status MakeDirectories(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status RemoveDirectory(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;

 private:
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  using Entries = std::map<std::string, NodePtr>;
  // Names that change together; null: the name is removed.
  using Change = std::vector<std::pair<std::string, NodePtr>>;
  struct Node {
    bool is_directory = false;
    std::string bytes, durable;
    bool bytes_lost = false;  // a sync has failed: no later one makes anything durable
    Entries entries, durable_entries;
    std::vector<Change> unsynced;
  };
  class File;

  static NodePtr NewNode(bool is_directory);
  static void Apply(const Change& change, Entries& entries);
  static void ChangeNames(Node& directory, Change change);
  static std::string SomeBytes(const Node& file, Left left, std::mt19937_64& random);
  static NodePtr Restarted(const Node& node, Left left, std::mt19937_64& random);
  static NodePtr CopyOf(const NodePtr& node, std::map<const Node*, NodePtr>& copies);

  Node* Find(const std::string& path) const;  // null if it is not there
  absl::StatusOr<std::pair<Node*, std::string>> FindParent(const std::string& path) const;
  absl::StatusOr<Node*> FindFile(const std::string& path) const;
  absl::StatusOr<Node*> FindDirectory(const std::string& path) const;
  // Performs `act(done)`, with what is injected; `done` is false where it is to be done by half.
  absl::Status Call(const char* call, const std::string& path, bool grows,
                    const std::function<absl::Status(bool done)>& act);
  absl::Status MakeDirectory(const std::string& path);

  mutable std::mutex mutex_;
  NodePtr root_;
  Fault fault_ = Fault::kNone;
  DiskPoint at_;
  bool injected_ = false, full_ = false, dead_ = false;
  std::map<std::pair<std::string, std::string>, int> counts_;
  std::vector<DiskPoint> points_;
};

}  // namespace mnemo
