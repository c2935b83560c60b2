// Batches read ahead on a thread of their own.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/status/statusor.h"
#include "src/data/sample_stream.h"

namespace mnemo {

// One consumer thread. The destructor waits for the read at hand and drops what was read ahead.
class Prefetcher {
 public:
  // What the i-th call of Next() returns, i = 0, 1, ...; nullopt: the end. Called in order, on the
  // reading thread. Typically closes over a SampleStream:
  //   [stream, step](int64_t i) { return std::optional(stream->Read({.step = step + i, ...})); }
  using Source = std::function<std::optional<absl::StatusOr<SliceBatch>>(int64_t index)>;

  // Keeps up to `depth` >= 1 batches read ahead, besides the one being read.
  Prefetcher(Source source, int depth);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // The next batch; waits for it. After an error, that error again; after the end, OutOfRange.
  absl::StatusOr<SliceBatch> Next();

 private:
  void Loop();

  const Source source_;
  const size_t depth_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<SliceBatch> ready_;
  absl::Status end_;  // why no more will come, once not OK
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace mnemo
