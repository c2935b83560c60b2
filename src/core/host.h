// Where this process runs.
#pragma once

#include <string>

namespace mnemo {

// For users. "localhost" if it cannot be found out.
std::string HostName();

// Equal for processes that share a machine's memory and cores, as far as the kernel says: same host
// name, same boot (other machines, and virtual ones, have booted by themselves, whatever they are
// called), same control group namespace (containers have their own, and with it their own limits).
// Containers without limits are taken for hosts of their own all the same. `root` is where /proc
// lies; what cannot be read is left out.
std::string HostIdentity(const std::string& root = "");

}  // namespace mnemo
