#include "src/job/disk_bench.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "src/core/file_system.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr size_t kPlainBlock = size_t{8} << 20;

using DiskClock = std::chrono::steady_clock;

double SecondsSinceThen(DiskClock::time_point begin) {
  return std::chrono::duration<double>(DiskClock::now() - begin).count();
}

class OpenFile {
 public:
  explicit OpenFile(const std::string& path)
      : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  int fd() const { return fd_; }
  absl::Status Failed(const char* what) const {
    return absl::UnavailableError(
        fmt::format("cannot {} {}: {}", what, path_, std::strerror(errno)));
  }

 private:
  std::string path_;
  int fd_;
};

// Share of a file's pages that the kernel holds in memory.
double ResidentShare(int fd) {
  struct stat info;
  if (::fstat(fd, &info) != 0 || info.st_size == 0) return 0;
  const auto bytes = static_cast<size_t>(info.st_size);
  void* const map = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) return 0;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((bytes + page - 1) / page);
  const bool known = ::mincore(map, bytes, pages.data()) == 0;
  ::munmap(map, bytes);
  if (!known) return 0;
  const auto held = std::count_if(pages.begin(), pages.end(), [](auto p) { return p & 1; });
  return static_cast<double>(held) / static_cast<double>(pages.size());
}

absl::Status Forget(const std::string& path) {
  const OpenFile file(path);
  if (file.fd() < 0) return file.Failed("open");
  if (::fsync(file.fd()) != 0) return file.Failed("sync");
  ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
  return absl::OkStatus();
}

absl::Status ForgetAllOfMachine() {
  std::ofstream drop("/proc/sys/vm/drop_caches");
  drop << "1" << std::flush;
  return drop ? absl::OkStatus()
              : absl::PermissionDeniedError(
                    "cannot write /proc/sys/vm/drop_caches: that needs root; without "
                    "--drop-caches the files' own pages are dropped");
}

absl::Status WritePlainFile(const std::string& path,
                            const std::vector<std::string_view>& contents) {
  std::unique_ptr<WritableFile> file;
  MNEMO_ASSIGN_OR_RETURN(file, FileSystem::Posix().Create(path));
  for (std::string_view bytes : contents) {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(kPlainBlock, bytes.size()))) {
      MNEMO_RETURN_IF_ERROR(file->Append(bytes.substr(0, kPlainBlock)));
    }
  }
  MNEMO_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

absl::Status ReadPlainFile(const std::string& path) {
  const OpenFile file(path);
  if (file.fd() < 0) return file.Failed("open");
  ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_SEQUENTIAL);
  std::vector<char> block(kPlainBlock);
  for (;;) {
    const ssize_t got = ::read(file.fd(), block.data(), block.size());
    if (got < 0 && errno != EINTR) return file.Failed("read");
    if (got == 0) return absl::OkStatus();
  }
}

}  // namespace

std::vector<std::string> FilesUnder(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory, error)) {
    if (entry.is_regular_file(error)) paths.push_back(entry.path());
  }
  return paths;
}

absl::Status RunAtOnce(int threads, const std::function<absl::Status(int index)>& body) {
  std::vector<absl::Status> results(threads);
  std::vector<std::thread> running;
  for (int i = 1; i < threads; ++i) {
    running.emplace_back([&, i] { results[i] = body(i); });
  }
  results[0] = body(0);
  for (std::thread& thread : running) thread.join();
  for (const absl::Status& result : results) MNEMO_RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

absl::Status DropCaches(const std::string& directory, bool machine) {
  ::sync();  // nothing of before is written meanwhile
  const std::vector<std::string> paths = FilesUnder(directory);
  for (const std::string& path : paths) MNEMO_RETURN_IF_ERROR(Forget(path));
  if (machine) MNEMO_RETURN_IF_ERROR(ForgetAllOfMachine());
  for (const std::string& path : paths) {
    const OpenFile file(path);
    if (file.fd() < 0) return file.Failed("open");
    struct stat info;
    const bool small = ::fstat(file.fd(), &info) == 0 && info.st_size < (1 << 20);
    const double share = small ? 0 : ResidentShare(file.fd());
    if (share > 0.01) {
      return FailedPrecondition(
          "{:.0f} % of {} stay in memory: cold reads cannot be measured there; name a directory on "
          "a disk",
          100 * share, path);
    }
  }
  return absl::OkStatus();
}

absl::Status WritePlainFiles(std::span<const std::string> paths,
                             std::span<const std::vector<std::string_view>> contents) {
  return RunAtOnce(static_cast<int>(paths.size()),
                   [&](int i) { return WritePlainFile(paths[i], contents[i]); });
}

absl::Status ReadPlainFiles(std::span<const std::string> paths) {
  return RunAtOnce(static_cast<int>(paths.size()), [&](int i) { return ReadPlainFile(paths[i]); });
}

double TimeMemoryRead(std::string_view bytes) {
  constexpr size_t kLanes = 16;
  uint64_t sums[kLanes] = {};
  const DiskClock::time_point begin = DiskClock::now();
  for (; bytes.size() >= sizeof(sums); bytes.remove_prefix(sizeof(sums))) {
    uint64_t words[kLanes];
    std::memcpy(words, bytes.data(), sizeof(words));
    for (size_t i = 0; i < kLanes; ++i) sums[i] += words[i];
  }
  uint64_t sum = 0;
  for (const uint64_t lane : sums) sum += lane;
  volatile uint64_t kept = sum;  // so that the loop is not left out
  (void)kept;
  return SecondsSinceThen(begin);
}

}  // namespace mnemo
