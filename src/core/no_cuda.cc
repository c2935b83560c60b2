// Stands in for the CUDA backend where the build has none.
#include "src/core/backend.h"

namespace mnemo {

Backend& CudaBackend(int index) {
  throw TensorError(
      FailedPrecondition("device cuda:{} was asked for, but this build has no CUDA backend; "
                         "configure with -DMNEMO_CUDA=ON, or run on the CPU",
                         index));
}

}  // namespace mnemo
