#include "src/core/cuda/check.h"

#include "src/core/status.h"

namespace mnemo::cuda {

void Check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next check would see it again
  const std::string message = fmt::format("{}:{}: {} failed: {} ({})", file, line, call,
                                          cudaGetErrorString(status), cudaGetErrorName(status));
  if (status == cudaErrorMemoryAllocation) {
    throw TensorError(absl::ResourceExhaustedError(message));
  }
  throw TensorError(absl::InternalError(message));
}

void Check(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string message = fmt::format("{}:{}: {} failed: {} ({}; cuBLASLt {})", file, line,
                                          call, cublasLtGetStatusString(status),
                                          cublasLtGetStatusName(status), cublasLtGetVersion());
  if (status == CUBLAS_STATUS_ALLOC_FAILED) {
    throw TensorError(absl::ResourceExhaustedError(message));
  }
  throw TensorError(absl::InternalError(message));
}

}  // namespace mnemo::cuda
