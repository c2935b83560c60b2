#include "src/core/cuda/device_facts.h"

#include <algorithm>

#include "src/core/status.h"

namespace mnemo::cuda {
namespace {

std::string Version(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// The first Linux driver of each major version of CUDA, where that is known.
std::string DriverOf(int runtime) {
  if (runtime / 1000 == 13) return " (580 or newer)";
  if (runtime / 1000 == 12) return " (525 or newer)";
  return "";
}

}  // namespace

bool RunsOn(const std::string& architecture, int major, int minor) {
  const bool exact = !architecture.empty() && architecture.back() == 'a';
  const int number = std::atoi(architecture.c_str());
  if (exact) return number == 10 * major + minor;
  return number / 10 == major && number % 10 <= minor;
}

absl::Status CheckDevice(const DeviceFacts& facts, const std::vector<std::string>& architectures) {
  if (facts.driver == 0) {
    return FailedPrecondition(
        "device cuda:{} was asked for, but this machine has no NVIDIA driver (libcuda.so.1); run "
        "on a machine with a GPU, or with execution.device: CPU",
        facts.index);
  }
  if (facts.driver / 1000 < facts.runtime / 1000) {
    return FailedPrecondition(
        "device cuda:{}: the NVIDIA driver knows CUDA up to {} and this program was built with {}; "
        "install a newer driver{}, or build with the CUDA toolkit that fits the driver",
        facts.index, Version(facts.driver), Version(facts.runtime), DriverOf(facts.runtime));
  }
  if (facts.count == 0) {
    return FailedPrecondition(
        "device cuda:{} was asked for, but the driver shows no GPU to this process; look at "
        "nvidia-smi and at CUDA_VISIBLE_DEVICES, or run with execution.device: CPU",
        facts.index);
  }
  if (facts.index < 0 || facts.index >= facts.count) {
    return InvalidArgument(
        "device cuda:{} was asked for, but this process sees {} GPU{}, cuda:0 to cuda:{}; start "
        "fewer ranks on this machine, or look at CUDA_VISIBLE_DEVICES",
        facts.index, facts.count, facts.count == 1 ? "" : "s", facts.count - 1);
  }
  const auto runs = [&](const std::string& architecture) {
    return RunsOn(architecture, facts.major, facts.minor);
  };
  if (std::none_of(architectures.begin(), architectures.end(), runs)) {
    return FailedPrecondition(
        "device cuda:{} is {} (sm_{}{}), but this program has kernels for sm_{} alone; build with "
        "-DMNEMO_CUDA_ARCHITECTURES={}{}{}, or run with execution.device: CPU",
        facts.index, facts.name, facts.major, facts.minor, fmt::join(architectures, ", sm_"),
        facts.major, facts.minor, facts.major == 9 ? "a" : "");  // what the memory's kernels need
  }
  return absl::OkStatus();
}

}  // namespace mnemo::cuda
