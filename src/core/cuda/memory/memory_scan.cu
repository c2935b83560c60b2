// Enqueues the memory scan's kernels, segment by segment.
#include <algorithm>
#include <vector>

#include "src/core/cuda/memory/memory_kernels.cuh"

namespace mnemo {
namespace memory {
namespace {

MemoryScanCarry carry_at(const MemoryScanShape& s, float* base) {
  const int64_t n = s.batch * s.heads * weight_elements(s);
  MemoryScanCarry carry{base, base + n, base + 2 * n, base + 3 * n};
  if (s.depth == 1) carry = {base, nullptr, base + n, nullptr};
  if (!s.biases) return carry;
  const int64_t sequences = s.batch * s.heads;
  carry.c1 = base + 2 * s.depth * n;
  carry.t1 = carry.c1 + sequences * bias_elements(s);
  if (s.depth == 1) return carry;
  carry.c2 = carry.c1 + sequences * kSlices * kTile;
  carry.t2 = carry.t1 + sequences * kSlices * kTile;
  return carry;
}

// Orders work between streams: one event a mark. A wait for a mark never made does nothing.
class Marks {
 public:
  explicit Marks(int64_t count) : events_(count) {}
  ~Marks() {
    for (cudaEvent_t e : events_)
      if (e != nullptr) cudaEventDestroy(e);  // lives on until the streams have passed it
  }
  Marks(const Marks&) = delete;
  Marks& operator=(const Marks&) = delete;
  void make(int64_t i, cudaStream_t stream) {
    if (cudaEventCreateWithFlags(&events_[i], cudaEventDisableTiming) == cudaSuccess)
      cudaEventRecord(events_[i], stream);
  }
  void await(int64_t i, cudaStream_t stream) const {
    if (i >= 0 && i < static_cast<int64_t>(events_.size()) && events_[i] != nullptr)
      cudaStreamWaitEvent(stream, events_[i], 0);
  }

 private:
  std::vector<cudaEvent_t> events_;
};

Rows to_rows(const MemoryScanRows& r) {
  return {static_cast<bf16*>(r.data), r.batch_stride, r.token_stride};
}

Segment segment_at(const MemoryScanShape& s, int64_t index) {
  const int64_t first = index * segment_chunks(s);
  return {static_cast<int>(s.heads),
          static_cast<int>(s.batch * s.heads),
          first * s.chunk,
          s.tokens,
          static_cast<int>(std::min(segment_chunks(s), chunk_count(s) - first)),
          s.chunk};
}

// Of segment `index`.
template <typename Args>
Options options_at(const Args& args, const OptionBuffers<bf16>& b, const StateBuffers<bf16>& states,
                   int64_t index) {
  const MemoryScanShape& s = args.shape;
  Options o;
  o.kept = {b.kept[index % kKeptSlots]};
  if (s.plain()) return o;
  o.on = true;
  o.towards_initial = s.towards_initial;
  o.limit2 = s.clamp * s.clamp;
  o.initial = b.initial;
  o.initial_tiles = b.initial_tiles;
  o.resets = s.resets ? args.resets : nullptr;
  o.row_scale = s.row_scale ? args.row_scale : nullptr;
  o.drows = b.drows;
  o.biases = s.biases;
  o.initial_c1 = args.initial.c1;
  o.initial_c2 = args.initial.c2;
  o.bias_states = states.biases;
  o.dinitial_biases = b.dinitial_biases;
  o.chunks = chunk_count(s);
  o.first_chunk = index * segment_chunks(s);
  o.clamp = states.clamp;
  o.dinitial = b.dinitial;
  return o;
}

template <typename Args>
CommonParams common_params(const Args& args, const OptionBuffers<bf16>& options,
                           const StateBuffers<bf16>& states, int64_t index) {
  const MemoryScanShape& shape = args.shape;
  return {segment_at(shape, index),
          to_rows(args.q),
          to_rows(args.k),
          to_rows(args.v),
          args.gates,
          shape.norm ? args.norm_gain : nullptr,
          args.norm_bias,
          states.coefficients,
          states.states,
          shape.epsilon,
          shape.residual,
          shape.gelu,
          options_at(args, options, states, index)};
}

Retained<bf16> retained_at(const MemoryScanShape& shape, void* base, int64_t index) {
  size_t bytes;
  return plan_retained<bf16>(shape, base, index, bytes);
}

const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* copy_carry(const MemoryScanShape& s, const MemoryScanCarry& to,
                       const MemoryScanCarry& from, cudaStream_t stream) {
  const int64_t sequences = s.batch * s.heads;
  const auto copy = [&](float* target, const float* source, int64_t elements) {
    const size_t bytes = sequences * elements * sizeof(float);
    if (target == nullptr) return;
    if (source == nullptr) {
      cudaMemsetAsync(target, 0, bytes, stream);
    } else {
      cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream);
    }
  };
  const int64_t weights = weight_elements(s);
  copy(to.w1, from.w1, weights), copy(to.w2, from.w2, weights);
  copy(to.s1, from.s1, weights), copy(to.s2, from.s2, weights);
  const int64_t first = s.depth == 1 ? kTile : kSlices * kTile;
  copy(to.c1, from.c1, first), copy(to.t1, from.t1, first);
  copy(to.c2, from.c2, kTile), copy(to.t2, from.t2, kTile);
  return last_error();
}

void scan_states(Kind kind, const CommonParams& p, const MemoryScanCarry& in,
                 const MemoryScanCarry& out, cudaStream_t stream) {
  const auto launch = kind == Kind::kFlat     ? launch_flat_states
                      : kind == Kind::kNarrow ? launch_narrow_states
                                              : launch_scan_states;
  launch(p, in, out, stream);
}

// With the segment's record, if it is to be retained.
void read(Kind kind, const CommonParams& p, const Rows& y, bf16* record, cudaStream_t stream) {
  if (record != nullptr) return launch_read_keeping(p, y, {record}, stream);
  const auto launch = kind == Kind::kFlat     ? launch_flat_read
                      : kind == Kind::kNarrow ? launch_narrow_read
                                              : launch_read;
  launch(p, y, stream);
}

// `again`: the record is still to be made.
void read_backward(Kind kind, const CommonParams& p, const Rows& dy, const Rows& dq, bf16* record,
                   bool again, cudaStream_t stream) {
  if (kind == Kind::kFlat) {
    launch_flat_read_backward(p, dy, dq, {record}, stream);
  } else if (kind == Kind::kNarrow) {
    launch_narrow_read_backward(p, dy, dq, {record}, stream);
  } else {
    if (again) launch_read_keeping(p, {}, {record}, stream);
    launch_read_backward(p, dy, dq, {record}, stream);
    if (p.options.clamps()) launch_clamp_keys(p, {record}, stream);
  }
}

const char* forward(const MemoryScanForwardArgs& args, cudaStream_t stream) {
  const MemoryScanShape& shape = args.shape;
  const int64_t sequences = shape.batch * shape.heads, segments = segment_count(shape);
  const int64_t carry = sequences * carry_elements(shape);
  const bool retain = args.retained != nullptr;
  const auto b = plan_forward<bf16>(shape, retain, args.workspace);
  const auto carry_before = [&](int64_t i) {
    if (i == segments) return args.carry_out;
    if (args.checkpoints != nullptr) return carry_at(shape, args.checkpoints + i * carry);
    return i == 0 ? args.carry_in : carry_at(shape, b.carries + i % 2 * carry);
  };
  if (!shape.plain()) {
    launch_prepare_initial(args.initial, shape.depth, static_cast<int>(shape.heads),
                           b.options.initial, b.options.initial_tiles, stream);
    cudaMemsetAsync(b.options.clamp_hits, 0, sizeof(unsigned), stream);
  }
  if (args.checkpoints != nullptr) {
    if (const char* e = copy_carry(shape, carry_before(0), args.carry_in, stream)) return e;
  }
  // The next segment's scan, which fills only part of the GPU when there are few sequences, runs
  // beside this segment's reads.
  const cudaStream_t side = args.side_stream == nullptr ? stream : args.side_stream;
  Marks scanned(segments), reads(segments), begun(1);
  begun.make(0, stream);
  begun.await(0, side);
  for (int64_t i = 0; i < segments; ++i) {
    const Retained<bf16> retained = retained_at(shape, args.retained, i);
    CommonParams p =
        common_params(args, b.options, retain ? retained.states : b.states[i % kForwardSlots], i);
    p.options.clamp_hits = b.options.clamp_hits;
    if (!retain) reads.await(i - kForwardSlots, stream);
    launch_gate_coefficients(p, const_cast<float*>(p.coefficients), stream);
    scan_states(kind_of(shape), p, carry_before(i), carry_before(i + 1), stream);
    scanned.make(i, stream);
    scanned.await(i, side);
    read(kind_of(shape), p, to_rows(args.y), retained.record, side);
    reads.make(i, side);
    if (const char* e = last_error()) return e;
  }
  if (args.clamp_hits != nullptr) launch_clamp_hits(b.options.clamp_hits, args.clamp_hits, stream);
  reads.await(segments - 1, stream);
  return last_error();
}

const char* backward(const MemoryScanBackwardArgs& args, cudaStream_t stream) {
  const MemoryScanShape& shape = args.shape;
  const int64_t segments = segment_count(shape);
  const int64_t carry_size = shape.batch * shape.heads * carry_elements(shape);
  const Kind kind = kind_of(shape);
  const bool retained = args.retained != nullptr;
  const auto b = plan_backward<bf16>(shape, retained, args.workspace);
  const auto carry = [&](int64_t i) { return carry_at(shape, b.carries + i * carry_size); };
  const Rows dy = to_rows(args.dy), dv = to_rows(args.dv);
  // Three stages, each a segment ahead of the next: states again, reads and their adjoint, the
  // state's adjoint. The first and the last fill only part of the GPU when there are few sequences.
  const cudaStream_t scan_stream = args.side_streams[0] == nullptr ? stream : args.side_streams[0];
  const cudaStream_t read_stream = args.side_streams[1] == nullptr ? stream : args.side_streams[1];
  Marks scanned(segments), read(segments), done(segments), begun(1);
  cudaMemsetAsync(b.norm_parts, 0, shape.batch * shape.heads * kTile * 2 * kTile * sizeof(float),
                  stream);
  if (!shape.plain()) {
    launch_prepare_initial(args.initial, shape.depth, static_cast<int>(shape.heads),
                           b.options.initial, b.options.initial_tiles, stream);
    cudaMemsetAsync(b.options.dinitial, 0,
                    shape.batch * shape.heads * initial_elements(shape) * sizeof(float), stream);
    if (shape.biases) {
      cudaMemsetAsync(b.options.dinitial_biases, 0,
                      shape.batch * shape.heads * bias_elements(shape) * sizeof(float), stream);
    }
  }
  begun.make(0, stream);
  begun.await(0, scan_stream);
  begun.await(0, read_stream);
  const auto params = [&](int64_t i) {
    return common_params(
        args, b.options,
        retained ? retained_at(shape, args.retained, i).states : b.states[i % kStateSlots], i);
  };
  const auto record_of = [&](int64_t i) {
    bf16* record = retained_at(shape, args.retained, i).record;
    return record != nullptr ? record : b.kept[i % kKeptSlots];
  };
  const auto scan = [&](int64_t i) {
    const CommonParams p = params(i);
    float* checkpoint = const_cast<float*>(args.checkpoints) + i * carry_size;
    done.await(i + kStateSlots, scan_stream);
    launch_gate_coefficients(p, const_cast<float*>(p.coefficients), scan_stream);
    scan_states(kind, p, carry_at(shape, checkpoint), carry(2), scan_stream);
    scanned.make(i, scan_stream);
  };
  const auto read_back = [&](int64_t i) {
    const CommonParams p = params(i);
    bf16* record = record_of(i);
    const bool again = record == b.kept[i % kKeptSlots];
    scanned.await(i, read_stream);
    done.await(i + kKeptSlots, read_stream);
    read_backward(kind, p, dy, to_rows(args.dq), record, again, read_stream);
    read.make(i, read_stream);
  };
  const auto adjoint = [&](int64_t i) {
    const CommonParams p = params(i);
    bf16* record = record_of(i);
    const bool first = i + 1 == segments;
    const MemoryScanCarry from = first ? args.dcarry_out : carry((i + 1) % 2);
    const MemoryScanCarry to = i == 0 ? args.dcarry_in : carry(i % 2);
    const Rows dk = to_rows(args.dk);
    read.await(i, stream);
    if (kind == Kind::kFlat) {
      launch_flat_adjoint(p, from, to, dk, dv, {record}, b.norm_parts, stream);
      launch_flat_finish(p, args.dgates, {record}, b.norm_reads, first, stream);
    } else if (kind == Kind::kNarrow) {
      launch_narrow_adjoint(p, from, to, dv, {record}, b.norm_parts, stream);
      launch_narrow_finish(p, dk, dv, args.dgates, {record}, b.norm_reads, first, stream);
    } else {
      launch_scan_adjoint(p, from, to, dv, {record}, b.norm_parts, first, stream);
      launch_finish_segment(p, dk, dv, args.dgates, {record}, b.norm_reads, first, stream);
    }
    if (shape.row_scale) launch_row_scale_parts(p, b.options.row_parts, first, stream);
    done.make(i, stream);
  };
  for (int64_t i = segments - 1; i >= -2; --i) {  // in the order in which one stream would need it
    if (i >= 0 && !retained) scan(i);
    if (i + 1 < segments && i + 1 >= 0) read_back(i + 1);
    if (i + 2 < segments) adjoint(i + 2);
    if (const char* e = last_error()) return e;
  }
  if (shape.norm) {
    const int parts = kind == Kind::kNarrow ? kNarrow
                      : kind == Kind::kFlat ? kFlatNormParts
                                            : kTile;
    launch_finish_norm(segment_at(shape, 0), parts, b.norm_parts, b.norm_reads, args.dnorm_gain,
                       args.dnorm_bias, stream);
  }
  if (shape.biases) {
    launch_finish_initial_biases(args.dinitial, shape.depth, segment_at(shape, 0),
                                 b.options.dinitial_biases, stream);
  }
  if (shape.row_scale) {
    launch_finish_row_scale(b.options.row_parts, args.row_scale, shape.chunk, args.drow_scale,
                            stream);
  }
  if (!shape.plain())
    launch_finish_initial(args.dinitial, shape.depth, segment_at(shape, 0), b.options.dinitial,
                          stream);
  return last_error();
}

}  // namespace
}  // namespace memory

bool MemoryScanSupports(const MemoryScanShape& shape) { return memory::supports(shape); }

size_t MemoryScanForwardWorkspace(const MemoryScanShape& shape, bool retain) {
  return memory::plan_forward<memory::bf16>(shape, retain, nullptr).bytes;
}

size_t MemoryScanBackwardWorkspace(const MemoryScanShape& shape, bool retain) {
  return memory::plan_backward<memory::bf16>(shape, retain, nullptr).bytes;
}

size_t MemoryScanRetainedBytes(const MemoryScanShape& shape) {
  size_t bytes;
  memory::plan_retained<memory::bf16>(shape, nullptr, 0, bytes);
  return memory::segment_count(shape) * bytes;
}

size_t MemoryScanCheckpointBytes(const MemoryScanShape& shape) {
  return memory::segment_count(shape) * shape.batch * shape.heads * memory::carry_elements(shape) *
         sizeof(float);
}

const char* MemoryScanForward(const MemoryScanForwardArgs& args, CUstream_st* stream) {
  if (!memory::supports(args.shape)) return "memory scan: shape not covered by these kernels";
  return memory::forward(args, stream);
}

const char* MemoryScanBackward(const MemoryScanBackwardArgs& args, CUstream_st* stream) {
  if (!memory::supports(args.shape)) return "memory scan: shape not covered by these kernels";
  return memory::backward(args, stream);
}

}  // namespace mnemo
