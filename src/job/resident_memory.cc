#include "src/job/resident_memory.h"

#include <fstream>
#include <string>

namespace mnemo {

std::optional<ResidentMemory> ReadResidentMemory() {
  ResidentMemory memory;
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    int64_t kib = 0;
    if (word == "VmRSS:" && status >> kib) memory.now = kib << 10;
    if (word == "VmHWM:" && status >> kib) memory.peak = kib << 10;
    std::getline(status, word);
  }
  if (memory.now == 0 || memory.peak == 0) return std::nullopt;
  return memory;
}

}  // namespace mnemo
