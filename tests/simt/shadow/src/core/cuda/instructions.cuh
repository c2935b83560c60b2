// What src/core/cuda/instructions.cuh offers, on tests/simt's stand-in for a GPU. Found in its
// place.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

namespace mnemo::cuda {

inline float QuickExp2(float x) { return std::exp2(x); }
inline float QuickReciprocal(float x) { return 1 / x; }

inline void CopyAsync16(uint4* to, const uint4* from, bool there) {
  simt::CopyAsync(simt::SharedAddress(to), from, 16, there ? 16 : 0);
}
inline void CommitCopies() { simt::CopyCommit(); }
template <int kPending>
void WaitForCopies() {
  simt::CopyWait(kPending);
}

}  // namespace mnemo::cuda
