#include "src/core/host.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <system_error>

namespace mnemo {

std::string HostName() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

std::string HostIdentity(const std::string& root) {
  std::string boot;
  std::ifstream(root + "/proc/sys/kernel/random/boot_id") >> boot;
  std::error_code missing;
  const auto groups = std::filesystem::read_symlink(root + "/proc/self/ns/cgroup", missing);
  return HostName() + " " + boot + " " + groups.string();
}

}  // namespace mnemo
