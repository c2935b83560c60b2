// Stands in for the CUDA backend where the build has none.
#include "src/core/backend.h"

namespace mnemo {

Backend& CudaBackend(int index) {
  throw TensorError(
      FailedPrecondition("device cuda:{} was asked for, but this version has no CUDA backend yet; "
                         "run with execution.device: CPU",
                         index));
}

}  // namespace mnemo
