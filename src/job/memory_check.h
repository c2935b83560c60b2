// Whether a planned run fits into the memory of its device, and taking that memory before the first
// step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/plan.pb.h"

namespace mnemo {

struct MemoryCheck {
  std::string config_name;  // heads the message: the file
  int ranks = 1;            // of the job
  int ranks_here = 1;       // of these, on this host, whose memory they share
  // Bytes; null: what the machine, or the GPU, has free now.
  std::optional<int64_t> available{};
  // Of the host, beside a GPU.
  std::optional<int64_t> host_available{};
  bool can_be_left_out = true;  // by --no-memory-check, which messages name then
};

// ResourceExhausted if the plan takes more than there is: one line with what is missing and the
// first change of the configuration that would fit (FindSmallerRun). Opens a GPU, and returns why
// that cannot be done.
absl::Status CheckMemory(const v1::RunConfig& config, const v1::Plan& plan,
                         const MemoryCheck& check);

// The part of CheckMemory about the memory in which the steps compute: `check.available` of it, or
// unknown. Opens nothing.
absl::Status CheckDeviceMemory(const v1::RunConfig& config, const v1::Plan& plan,
                               const MemoryCheck& check);

// ResourceExhausted if the copies that the ranks here write saves from, beside a GPU each, take
// more than the host has: one line. Part of CheckMemory.
absl::Status CheckHostMemory(const v1::RunConfig& config, const v1::Plan& plan,
                             const MemoryCheck& check);

// Takes from the driver of a GPU what the plan's tensors need and a thirtieth more, for the gaps
// between them, in one block, and says so in the log; less where there is less. Nothing on the CPU.
// An error, headed by `config_name`, is one line that says why the GPU cannot be opened.
absl::Status ReserveMemory(const std::string& config_name, const v1::RunConfig& config,
                           const v1::Plan& plan);

}  // namespace mnemo
