// See cuda_runtime.h beside this folder.
#pragma once

inline void nvtxRangePushA(const char*) {}
inline void nvtxRangePop() {}
