#include "src/job/memory_check.h"

#include <algorithm>

#include "src/core/device_memory.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/available_memory.h"
#include "src/model/door.h"
#include "src/model/execution.h"
#include "src/model/smaller_run.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

// Of what is planned; and what every block is larger by, whatever the model.
constexpr int64_t kSlackShare = 30, kSlack = int64_t{64} << 20;
// Left to the driver and to libraries that load more than they had loaded at the start.
constexpr int64_t kLeftToDriver = int64_t{256} << 20;

// Null on the CPU.
absl::StatusOr<std::optional<DeviceMemory>> Open(const std::string& config_name, Device device) {
  auto opened =
      AtTheDoor([&]() -> absl::StatusOr<std::optional<DeviceMemory>> { return MemoryOf(device); });
  if (opened.ok()) return opened;
  return absl::Status(opened.status().code(),
                      fmt::format("{}: {}", config_name, std::string(opened.status().message())));
}

std::string WayOut(const v1::RunConfig& config, const MemoryCheck& check, int sharers,
                   int64_t available) {
  const std::optional<SmallerRun> smaller =
      FindSmallerRun(config, check.ranks, available / sharers);
  if (!smaller) return "nothing that a step keeps or takes at a time can be made smaller";
  const std::string bytes = PrintBytes(smaller->bytes * sharers);
  if (smaller->fits) return fmt::format("{} would need {}", smaller->changes, bytes);
  return fmt::format("even {} would need {}", smaller->changes, bytes);
}

const char* LeaveOut(const MemoryCheck& check) {
  return check.can_be_left_out ? "; or try it all the same with --no-memory-check" : "";
}

}  // namespace

absl::Status CheckHostMemory(const v1::RunConfig& config, const v1::Plan& plan,
                             const MemoryCheck& check) {
  if (ComputeDevice(config.execution()) == Device()) return absl::OkStatus();
  const std::optional<int64_t> available =
      check.host_available ? check.host_available : AvailableMemory();
  const int64_t needed = plan.memory().snapshot() * check.ranks_here;
  if (!available || needed <= *available) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format(
      "{}: saves behind the training are written from copies in the host's memory: they need {}, "
      "as planned, and {} are available; set train.checkpoint_async = false{}",
      check.config_name, PrintBytes(needed), PrintBytes(*available), LeaveOut(check)));
}

absl::Status CheckMemory(const v1::RunConfig& config, const v1::Plan& plan,
                         const MemoryCheck& check) {
  const Device device = ComputeDevice(config.execution());
  MNEMO_ASSIGN_OR_RETURN(const std::optional<DeviceMemory> memory, Open(check.config_name, device));
  MNEMO_RETURN_IF_ERROR(CheckHostMemory(config, plan, check));
  MemoryCheck known = check;
  if (!known.available) known.available = memory ? memory->free : AvailableMemory();
  return CheckDeviceMemory(config, plan, known);
}

absl::Status CheckDeviceMemory(const v1::RunConfig& config, const v1::Plan& plan,
                               const MemoryCheck& check) {
  const std::optional<int64_t>& available = check.available;
  if (!available) return absl::OkStatus();
  const Device device = ComputeDevice(config.execution());
  const int sharers = device == Device() ? check.ranks_here : 1;  // a GPU has one rank
  const int64_t needed = plan.memory().total() * sharers;
  if (needed <= *available) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format(
      "{}: needs {} of memory{}, as planned, and {} are {}: {} are missing; {}{}",
      check.config_name, PrintBytes(needed),
      sharers > 1 ? fmt::format(" for {} ranks on this host", sharers) : "", PrintBytes(*available),
      device == Device() ? "available" : fmt::format("free on cuda:{}", device.index),
      PrintBytes(needed - *available), WayOut(config, check, sharers, *available),
      LeaveOut(check)));
}

absl::Status ReserveMemory(const std::string& config_name, const v1::RunConfig& config,
                           const v1::Plan& plan) {
  const Device device = ComputeDevice(config.execution());
  MNEMO_ASSIGN_OR_RETURN(const std::optional<DeviceMemory> memory, Open(config_name, device));
  if (!memory) return absl::OkStatus();
  const int64_t planned = TensorBytes(plan.memory());
  const int64_t wanted = std::min(planned + planned / kSlackShare + kSlack,
                                  std::max<int64_t>(0, memory->free - kLeftToDriver));
  MNEMO_RETURN_IF_ERROR(AtTheDoor([&] {
    ReserveMemory(device, wanted);
    return absl::OkStatus();
  }));
  LogInfo("cuda:{}: {} of {} free, {} planned for tensors, {} taken", device.index,
          PrintBytes(memory->free), PrintBytes(memory->total), PrintBytes(planned),
          PrintBytes(wanted));
  return absl::OkStatus();
}

}  // namespace mnemo
