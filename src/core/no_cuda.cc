// Stands in for the CUDA backend where the build has none.
#include "src/core/backend.h"

namespace mnemo {

Backend& CudaBackend(int index) {
  throw TensorError(
      FailedPrecondition("device cuda:{} was asked for, but this program was built without CUDA; "
                         "build it with cmake --preset cuda, or run with execution.device: CPU",
                         index));
}

}  // namespace mnemo
