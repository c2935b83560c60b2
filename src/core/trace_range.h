// Names what a thread is at for a profiler: a range of NVTX, which nsys shows, in a build with
// CUDA; nothing in one without. docs/operations.md says how to look at them.
#pragma once

namespace mnemo {

// Ranges of one thread lie in one another. `name` is copied.
void BeginTraceRange(const char* name);
void EndTraceRange();

// As long as the object lives.
class TraceRange {
 public:
  explicit TraceRange(const char* name) { BeginTraceRange(name); }
  ~TraceRange() { EndTraceRange(); }
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
};

}  // namespace mnemo
