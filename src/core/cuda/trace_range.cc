#include "src/core/trace_range.h"

#include <nvtx3/nvToolsExt.h>

namespace mnemo {

void BeginTraceRange(const char* name) { nvtxRangePushA(name); }
void EndTraceRange() { nvtxRangePop(); }

}  // namespace mnemo
