// Random inputs of a memory scan on the host and on the device, and one call on them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "src/core/cuda/memory/memory_scan.h"
#include "tests/bench/memory_scan/reference.h"

namespace mnemo::memory_bench {

// Ends the process with the call's message when `error` is not success.
void Check(cudaError_t error, const char* what);
void Check(const char* error, const char* what);

// Device memory, filled with NaN bytes at first so that unwritten outputs are noticed.
class Buffer {
 public:
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }
  size_t bytes() const { return bytes_; }
  void Poison();

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

struct Case {
  MemoryScanShape shape;
  uint64_t seed = 1;
  bool backward = false;
  bool retain = false;  // what backward needs, instead of checkpoints
  bool momentum = true, forgetting = true;
  float alpha_max = 1e-3f;
  cudaStream_t stream = nullptr;  // the checks' main stream
  cudaStream_t side_streams[2] = {nullptr, nullptr};
  // Called before each of the calls that are to agree bit by bit, counted from 0.
  void (*before_call)(int call) = nullptr;
};

// The shape without layer norm.
MemoryScanShape BareShape(MemoryScanShape shape);
// The shape of depth 1: no layer norm, no residual.
MemoryScanShape FlatShape(MemoryScanShape shape);
// The same with both.
MemoryScanShape FlatNormShape(MemoryScanShape shape);

// All buffers of one case. Host copies hold what the device sees (bf16 already rounded).
class DeviceCase {
 public:
  DeviceCase(const Case& c, bool keep_host);
  const char* Forward(cudaStream_t stream);
  const char* Backward(cudaStream_t stream);  // once a Forward where the case retains
  void PoisonOutputs();

  // Host inputs, adjoints and results of one sequence (batch entry and head) as doubles.
  memory_reference::Inputs HostInputs(int64_t sequence) const;
  memory_reference::Mat HostDy(int64_t sequence) const;
  memory_reference::State HostDcarry(int64_t sequence) const;
  memory_reference::Outputs DeviceOutputs(int64_t sequence) const;
  memory_reference::Gradients DeviceGradients(int64_t sequence) const;
  // Fetches outputs (and gradients) from the device for the two functions above.
  void Fetch();
  // Order-sensitive checksum of everything fetched.
  uint64_t Checksum() const;
  int chunk() const { return case_.shape.chunk; }
  // Tokens with clamped gradients, over all sequences.
  double DeviceHits() const;
  // The gradient of the row scale.
  std::vector<double> DeviceRowScale() const;
  // Whether the kernels read and write W1, W2, S1, S2, c1, c2, t1, t2 (0 .. 7).
  bool HasWeights(int i) const;

 private:
  struct Array;  // a device buffer with its host copy
  std::shared_ptr<Array> Make(std::vector<float> host, bool is_bf16);
  memory_reference::Mat HostRows(const Array& a, int64_t sequence) const;
  std::vector<double> HostGates(const Array& a, int64_t sequence) const;
  memory_reference::State HostState(const std::vector<std::shared_ptr<Array>>& a,
                                    int64_t sequence) const;
  std::vector<memory_reference::Mat> HostInitial(const std::vector<std::shared_ptr<Array>>& a,
                                                 const std::vector<std::shared_ptr<Array>>& biases,
                                                 int64_t head) const;
  MemoryScanRows RowsOf(const Array& a) const;

  Case case_;
  bool keep_host_;
  std::shared_ptr<Array> q_, k_, v_, y_, dy_, dq_, dk_, dv_, gain_, bias_, dgain_, dbias_;
  // With options only. Of W_0, its biases and their gradients, one for each layer.
  std::shared_ptr<Array> resets_, hits_, row_scale_, drow_scale_;
  std::vector<std::shared_ptr<Array>> initial_, dinitial_, initial_biases_, dinitial_biases_;
  std::vector<std::shared_ptr<Array>> gates_, dgates_, carry_in_, carry_out_, dcarry_out_,
      dcarry_in_;
  std::unique_ptr<Buffer> workspace_, backward_workspace_, checkpoints_, retained_;
};

}  // namespace mnemo::memory_bench
