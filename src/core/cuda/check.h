// Every call of the CUDA runtime and of its libraries is checked through these.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

namespace mnemo::cuda {

// Throw TensorError with the place, the call and the library's own message unless `status` is
// success. An out-of-memory error becomes ResourceExhausted, anything else Internal.
void Check(cudaError_t status, const char* call, const char* file, int line);
void Check(cublasStatus_t status, const char* call, const char* file, int line);

}  // namespace mnemo::cuda

#define MNEMO_CUDA(call) ::mnemo::cuda::Check((call), #call, __FILE__, __LINE__)
