// Speed of the CPU backend's kernels at the shapes that training runs most: 32 heads, chunks of 64
// tokens, keys of 64, hidden layers of 256.
#pragma once

#include <functional>
#include <string>

#include "src/core/tensor.h"

namespace mnemo {

struct OpTime {
  std::string name;      // "gemm [32, 64, 64] x [32, 64, 256]"
  double seconds = 0;    // one call
  double work = 0;       // FLOP (multiply-add = 2), or bytes read and written once
  bool product = false;  // work is FLOP
  double rate() const { return work / seconds; }
};

// Times every op in turn, with the threads of the calling thread; takes about ten seconds.
void BenchOps(DType dtype, const std::function<void(const OpTime&)>& report);

}  // namespace mnemo
