// Enqueues the memory scan's kernels, segment by segment.
#include <algorithm>

#include "src/core/cuda/memory/memory_kernels.cuh"

namespace mnemo {
namespace memory {
namespace {

constexpr int64_t kWeightElements = int64_t{kSlices} * kTileElements;  // of one W1, W2, S1 or S2
constexpr int64_t kCarryElements = 4 * kWeightElements;

// Blocks per segment: enough for the parallel kernels to fill the GPU several times over, few
// enough that the states and what backward keeps of a segment stay near 1 GiB.
constexpr int64_t kSegmentBlocks = 2048;

int64_t chunk_count(const MemoryScanShape& s) { return (s.tokens + s.chunk - 1) / s.chunk; }

int64_t segment_chunks(const MemoryScanShape& s) {
  const int64_t most = std::max<int64_t>(1, kSegmentBlocks / (s.batch * s.heads));
  const int64_t segments = (chunk_count(s) + most - 1) / most;
  return (chunk_count(s) + segments - 1) / segments;
}

int64_t segment_count(const MemoryScanShape& s) {
  return (chunk_count(s) + segment_chunks(s) - 1) / segment_chunks(s);
}

// Hands out parts of a workspace; with a null base it only adds up the bytes.
class Allotment {
 public:
  explicit Allotment(void* base) : base_(static_cast<char*>(base)) {}
  template <typename T>
  T* take(int64_t count) {
    T* p = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (count * sizeof(T) + 1023) / 1024 * 1024;
    return p;
  }
  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

MemoryScanCarry carry_at(float* base, int64_t sequences) {
  const int64_t n = sequences * kWeightElements;
  return {base, base + n, base + 2 * n, base + 3 * n};
}

struct ForwardBuffers {
  float* coefficients;
  bf16* states;
  float* carries;  // two, where the caller keeps no checkpoints
  size_t bytes;
};

ForwardBuffers plan_forward(const MemoryScanShape& s, void* workspace) {
  Allotment a(workspace);
  const int64_t sequences = s.batch * s.heads, blocks = sequences * segment_chunks(s);
  ForwardBuffers b;
  b.coefficients = a.take<float>(blocks * kCoefficients);
  b.states = a.take<bf16>(blocks * kStateElements);
  b.carries = a.take<float>(2 * sequences * kCarryElements);
  b.bytes = a.bytes();
  return b;
}

Rows to_rows(const MemoryScanRows& r) {
  return {static_cast<bf16*>(r.data), r.batch_stride, r.token_stride};
}

Segment segment_at(const MemoryScanShape& s, int64_t index) {
  const int64_t first = index * segment_chunks(s);
  return {static_cast<int>(s.heads), static_cast<int>(s.batch * s.heads), first * s.chunk, s.tokens,
          static_cast<int>(std::min(segment_chunks(s), chunk_count(s) - first))};
}

const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* copy_carry(const MemoryScanCarry& to, const MemoryScanCarry& from, int64_t sequences,
                       cudaStream_t stream) {
  const size_t bytes = sequences * kWeightElements * sizeof(float);
  cudaMemcpyAsync(to.w1, from.w1, bytes, cudaMemcpyDeviceToDevice, stream);
  cudaMemcpyAsync(to.w2, from.w2, bytes, cudaMemcpyDeviceToDevice, stream);
  cudaMemcpyAsync(to.s1, from.s1, bytes, cudaMemcpyDeviceToDevice, stream);
  cudaMemcpyAsync(to.s2, from.s2, bytes, cudaMemcpyDeviceToDevice, stream);
  return last_error();
}

const char* forward(const MemoryScanForwardArgs& args, cudaStream_t stream) {
  const MemoryScanShape& shape = args.shape;
  const int64_t sequences = shape.batch * shape.heads, segments = segment_count(shape);
  const ForwardBuffers b = plan_forward(shape, args.workspace);
  const auto carry_before = [&](int64_t i) {
    if (i == segments) return args.carry_out;
    if (args.checkpoints != nullptr)
      return carry_at(args.checkpoints + i * sequences * kCarryElements, sequences);
    return i == 0 ? args.carry_in
                  : carry_at(b.carries + i % 2 * sequences * kCarryElements, sequences);
  };
  if (args.checkpoints != nullptr) {
    if (const char* e = copy_carry(carry_before(0), args.carry_in, sequences, stream)) return e;
  }
  for (int64_t i = 0; i < segments; ++i) {
    const CommonParams p{segment_at(shape, i), to_rows(args.q), to_rows(args.k),
                         to_rows(args.v),      args.gates,      args.norm_gain,
                         args.norm_bias,       b.coefficients,  b.states,
                         shape.epsilon,        shape.residual};
    launch_gate_coefficients(p, b.coefficients, stream);
    launch_scan_states(p, carry_before(i), carry_before(i + 1), stream);
    launch_read(p, to_rows(args.y), stream);
    if (const char* e = last_error()) return e;
  }
  return nullptr;
}

struct BackwardBuffers {
  float* coefficients;
  bf16* states;
  bf16* kept;
  float* carries;     // two states' adjoints, and one state nobody reads
  float* norm_parts;  // [sequences, 64, 2, 64]
  float* norm_reads;  // [sequences, 2, 64]
  size_t bytes;
};

BackwardBuffers plan_backward(const MemoryScanShape& s, void* workspace) {
  Allotment a(workspace);
  const int64_t sequences = s.batch * s.heads, blocks = sequences * segment_chunks(s);
  BackwardBuffers b;
  b.coefficients = a.take<float>(blocks * kCoefficients);
  b.states = a.take<bf16>(blocks * kStateElements);
  b.kept = a.take<bf16>(blocks * kept::kTiles * kTileElements);
  b.carries = a.take<float>(3 * sequences * kCarryElements);
  b.norm_parts = a.take<float>(sequences * kTile * 2 * kTile);
  b.norm_reads = a.take<float>(sequences * 2 * kTile);
  b.bytes = a.bytes();
  return b;
}

const char* backward(const MemoryScanBackwardArgs& args, cudaStream_t stream) {
  const MemoryScanShape& shape = args.shape;
  const int64_t sequences = shape.batch * shape.heads, segments = segment_count(shape);
  const BackwardBuffers b = plan_backward(shape, args.workspace);
  const auto carry = [&](int64_t i) {
    return carry_at(b.carries + i * sequences * kCarryElements, sequences);
  };
  const Kept kept{b.kept};
  const Rows dy = to_rows(args.dy), dv = to_rows(args.dv);
  for (int64_t i = segments - 1; i >= 0; --i) {
    const CommonParams p{segment_at(shape, i), to_rows(args.q), to_rows(args.k),
                         to_rows(args.v),      args.gates,      args.norm_gain,
                         args.norm_bias,       b.coefficients,  b.states,
                         shape.epsilon,        shape.residual};
    const bool first = i + 1 == segments;
    float* checkpoint = const_cast<float*>(args.checkpoints) + i * sequences * kCarryElements;
    launch_gate_coefficients(p, b.coefficients, stream);
    launch_scan_states(p, carry_at(checkpoint, sequences), carry(2), stream);
    launch_read_keeping(p, dy, kept, stream);
    launch_read_backward(p, dy, to_rows(args.dq), kept, stream);
    launch_scan_adjoint(p, first ? args.dcarry_out : carry((i + 1) % 2),
                        i == 0 ? args.dcarry_in : carry(i % 2), dv, kept, b.norm_parts, first,
                        stream);
    launch_finish_segment(p, to_rows(args.dk), dv, args.dgates, kept, b.norm_reads, first, stream);
    if (const char* e = last_error()) return e;
  }
  launch_finish_norm(segment_at(shape, 0), b.norm_parts, b.norm_reads, args.dnorm_gain,
                     args.dnorm_bias, stream);
  return last_error();
}

}  // namespace
}  // namespace memory

bool MemoryScanSupports(const MemoryScanShape& s) {
  return s.head_dim == 64 && s.hidden == 256 && s.depth == 2 && s.chunk == 64 && s.norm &&
         s.batch > 0 && s.heads > 0 && s.tokens > 0;
}

size_t MemoryScanForwardWorkspace(const MemoryScanShape& shape) {
  return memory::plan_forward(shape, nullptr).bytes;
}

size_t MemoryScanBackwardWorkspace(const MemoryScanShape& shape) {
  return memory::plan_backward(shape, nullptr).bytes;
}

size_t MemoryScanCheckpointBytes(const MemoryScanShape& shape) {
  return memory::segment_count(shape) * shape.batch * shape.heads * memory::kCarryElements *
         sizeof(float);
}

const char* MemoryScanForward(const MemoryScanForwardArgs& args, CUstream_st* stream) {
  if (!MemoryScanSupports(args.shape)) return "memory scan: shape not covered by these kernels";
  return memory::forward(args, stream);
}

const char* MemoryScanBackward(const MemoryScanBackwardArgs& args, CUstream_st* stream) {
  if (!MemoryScanSupports(args.shape)) return "memory scan: shape not covered by these kernels";
  return memory::backward(args, stream);
}

}  // namespace mnemo
