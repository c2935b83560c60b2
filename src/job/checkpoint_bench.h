// Speed of saves and loads beside plain files, of a snapshot beside a bare copy, and of digests
// beside memory: all with the same bytes, alternately, in one run.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/ckpt/checkpoint_writer.h"
#include "src/core/tensor.h"

namespace mnemo {

struct CheckpointBenchOptions {
  std::string directory;  // is made if it is not there; what is written in it is removed again
  int64_t bytes = int64_t{4} << 30;
  int ranks = 1;  // threads, each with a part of the state and a file of its own
  int rounds = 3;
  bool drop_caches = false;  // of the whole machine
  // Of the state. On a GPU only snapshots are timed: all else is the host's.
  Device device;
};

// Seconds of every round; `bytes` of each.
struct BenchTimes {
  std::string name;
  int64_t bytes = 0;
  std::vector<double> seconds;

  double median() const;
  double rate() const { return static_cast<double>(bytes) / median(); }
  // (longest - shortest) / median.
  double spread() const;
};

// What is asked of a measurement beside the fastest of the plain ones.
struct BenchComparison {
  BenchTimes ours;
  std::vector<BenchTimes> plain;
  // Ours has to reach this share of the plain rate; 0: nothing is asked.
  double required = 0;

  const BenchTimes& fastest() const;  // of the plain ones, by its median
  double ratio() const { return ours.rate() / fastest().rate(); }
  bool met() const { return required == 0 || ratio() >= required; }
};

// Shapes like those of a model's parameters and its optimizer's moments, f32, of about `bytes`.
struct NamedShape {
  std::string name;
  Shape shape;
};
std::vector<NamedShape> StateOfBytes(int64_t bytes);

// Of `report` each as soon as it is known. Saves and loads have to reach 0.8 of plain files, a
// snapshot 1 / 1.2 of a bare copy, digests 0.8 of a loop that only reads.
absl::Status BenchCheckpoints(const CheckpointBenchOptions& options,
                              const std::function<void(const BenchComparison&)>& report);

}  // namespace mnemo
