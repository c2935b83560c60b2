// The memory scan's kernels on a CPU, against the float64 reference: the cases of
// memory_scan_check, but for those of many chunks. Calls that are to agree bit by bit differ in the
// order of warps and in when asynchronous work happens.
//
//   memory_scan_simt_check [CHUNK]      exit status 1 if a case fails
#include <cstdio>
#include <cstdlib>

#include "tests/bench/memory_scan/scan_check.h"
#include "tests/simt/machine.h"

int main(int argc, char** argv) {
  using namespace mnemo;
  memory_bench::CheckChoice choice;
  choice.chunk = argc > 1 ? std::atoi(argv[1]) : 0;
  choice.small = true;
  choice.before_call = [](int call) { simt::settings = {call > 0, call > 0}; };
  const bool good = memory_bench::CheckAll(choice);
  std::printf(good ? "all checks passed\n" : "CHECKS FAILED\n");
  return good ? 0 : 1;
}
