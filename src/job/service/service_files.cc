#include "src/job/service/service_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "src/core/log.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

using Json = nlohmann::json;

constexpr size_t kTokenBytes = 32;

std::string TokenPath(const std::string& run_directory) { return run_directory + "/token"; }

absl::Status SystemError(std::string_view what, const std::string& path) {
  return absl::UnavailableError(fmt::format("cannot {} {}: {}", what, path, std::strerror(errno)));
}

// A descriptor that closes itself.
struct Descriptor {
  explicit Descriptor(int opened) : number(opened) {}
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number;
};

absl::StatusOr<std::string> RandomToken() {
  std::array<unsigned char, kTokenBytes> bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return SystemError("get random bytes for", "a token");
  }
  return fmt::format("{:02x}", fmt::join(bytes, ""));
}

}  // namespace

std::string CoordinatorFilePath(const std::string& run_directory) {
  return run_directory + "/coordinator.json";
}

absl::Status WriteCoordinatorFile(FileSystem& fs, const std::string& run_directory,
                                  const CoordinatorFile& file) {
  const Json json = {{"address", file.address},
                     {"host", file.host},
                     {"process", file.process},
                     {"started_unix_millis", file.started_unix_millis}};
  return WriteFileAtomically(fs, CoordinatorFilePath(run_directory), json.dump(2) + "\n");
}

absl::StatusOr<CoordinatorFile> ReadCoordinatorFile(FileSystem& fs,
                                                    const std::string& run_directory) {
  const std::string path = CoordinatorFilePath(run_directory);
  if (!fs.Exists(path)) {
    return NotFound("no coordinator serves {}: there is no coordinator.json in it", run_directory);
  }
  MNEMO_ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(path));
  const Json json = Json::parse(text, nullptr, false);
  try {
    CoordinatorFile file;
    json.at("address").get_to(file.address);
    json.at("host").get_to(file.host);
    json.at("process").get_to(file.process);
    json.at("started_unix_millis").get_to(file.started_unix_millis);
    return file;
  } catch (const Json::exception&) {
    return DataLoss("{} is not what a coordinator writes; remove it and start one", path);
  }
}

absl::StatusOr<std::string> ReadToken(const std::string& run_directory) {
  const std::string path = TokenPath(run_directory);
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.number < 0 && errno == ENOENT) {
    return NotFound("there is no token in {}: no coordinator has served that run", run_directory);
  }
  struct stat status;
  if (file.number < 0 || ::fstat(file.number, &status) != 0) return SystemError("read", path);
  if ((status.st_mode & 077) != 0) {
    return FailedPrecondition(
        "other users may read {}: remove it and start the coordinator again, which makes a new one",
        path);
  }
  std::string token(2 * kTokenBytes, '\0');
  if (::read(file.number, token.data(), token.size()) != static_cast<ssize_t>(token.size())) {
    return DataLoss("{} is cut short: remove it and start the coordinator again", path);
  }
  return token;
}

absl::StatusOr<std::string> ReadOrMakeToken(const std::string& run_directory) {
  absl::StatusOr<std::string> there = ReadToken(run_directory);
  if (!absl::IsNotFound(there.status())) return there;
  MNEMO_ASSIGN_OR_RETURN(const std::string token, RandomToken());
  const std::string path = TokenPath(run_directory), temporary = path + ".tmp";
  ::unlink(temporary.c_str());
  {
    const Descriptor file(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    const std::string line = token + "\n";
    if (file.number < 0 ||
        ::write(file.number, line.data(), line.size()) != static_cast<ssize_t>(line.size()) ||
        ::fsync(file.number) != 0) {
      return SystemError("write", temporary);
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) return SystemError("rename", temporary);
  return token;
}

absl::StatusOr<std::shared_ptr<const void>> LockForCoordinator(FileSystem& fs,
                                                               const std::string& run_directory) {
  MNEMO_RETURN_IF_ERROR(MakeDurableDirectories(fs, run_directory));
  const std::string path = run_directory + "/.coordinator.lock";
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) return SystemError("create", path);
  std::shared_ptr<const void> lock(nullptr, [descriptor](const void*) { ::close(descriptor); });
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno != EWOULDBLOCK) {
    LogWarning("cannot lock {}: {}; no second coordinator may serve {}", path, std::strerror(errno),
               run_directory);
    return lock;
  }
  const auto file = ReadCoordinatorFile(fs, run_directory);
  return FailedPrecondition(
      "a coordinator serves {} already{}: end it first, or name another --run-dir", run_directory,
      file.ok()
          ? fmt::format(", at {} (process {} on {})", file->address, file->process, file->host)
          : "");
}

}  // namespace mnemo
