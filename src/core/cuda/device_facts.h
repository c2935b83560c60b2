// Whether a GPU can run this program, told from numbers alone: plain C++, testable without a GPU.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace mnemo::cuda {

// Versions as the CUDA runtime writes them: 13000 is 13.0.
struct DeviceFacts {
  int driver = 0;   // newest CUDA that the installed driver knows; 0: there is no driver
  int runtime = 0;  // what this program was built with
  int count = 0;    // GPUs that the process sees
  int index = 0;    // the one that was asked for
  std::string name;
  int major = 0, minor = 0;  // its compute capability
};

// Ok, or one line: what is wrong, where, what to do. `architectures` as nvcc names them: 90a, 80.
absl::Status CheckDevice(const DeviceFacts& facts, const std::vector<std::string>& architectures);

// Whether machine code of `architecture` runs on a GPU of this compute capability: within a major
// version on later minor ones; with an `a` on that very one.
bool RunsOn(const std::string& architecture, int major, int minor);

}  // namespace mnemo::cuda
