#include <algorithm>

#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "src/model/attention_path.h"
#include "src/model/memory_path.h"
#include "src/model/mixers.h"
#include "src/model/tensor_split.h"

namespace mnemo {
namespace {

// Memory as context, segment by segment. Within a segment of rows X:
//   h = f_W(L2norm(SiLU(X W_r))), W the memory's state before the segment: a read, no write;
//   a = attention of X over [persistent | h | X], token i seeing h_j and X_j for j <= i;
//   y = the memory written and read with a;  out = (a o sigmoid(RMSNorm(y))) W_o.
// A segment that a slice leaves open goes on in the next: its keys, values and W are in the carry.
class MacSlice {
 public:
  MacSlice(const MixerCall& call, const Var& x)
      : call_(call),
        spec_(call.spec),
        x_(x),
        parameters_(MemoryParametersOf(call.spec, call.p)),
        tables_(SliceRotary(call.spec, call.context, x)),
        persistent_(ProjectPersistent(call.spec, call.p)) {
    q_ = Rotate(ProjectHeads(spec_, call.p, "attention.q.weight", x), tables_);
    k_ = Rotate(ProjectHeads(spec_, call.p, "attention.k.weight", x), tables_);
    v_ = ProjectHeads(spec_, call.p, "attention.v.weight", x);
    const Var recall = Silu(Widen(MatMul(x, Transpose(call.p.Get("memory.recall.weight")))));
    recall_ = SplitHeads(L2Norm(recall, spec_.own_heads(), spec_.epsilon), spec_.own_heads());
  }

  Var Run() {
    std::vector<Var> outputs;
    const int64_t rows = x_.dim(1);
    for (int64_t begin = 0; begin < rows;) {
      const int64_t end = std::min(rows, begin + spec_.segment - call_.carry.segment.count);
      outputs.push_back(Segment(begin, end));
      begin = end;
    }
    return Concat(outputs, 1);
  }

 private:
  // Rows [begin, end) of the slice, all of one segment.
  Var Segment(int64_t begin, int64_t end) {
    OpenSegment& open = call_.carry.segment;
    if (open.count == 0) Begin(begin);
    Extend(begin, end);
    const int64_t position = call_.context.position + begin - (open.count - (end - begin));
    const std::vector<KeyRun> runs = {{open.read_keys, open.read_values, position},
                                      {open.keys, open.values, position}};
    const Var a = MergeHeads(Attention(Slice(q_, 2, begin, end), persistent_.k, persistent_.v, runs,
                                       {call_.context.position + begin, 0, {}}));
    const Var y = WriteAndRead(spec_, call_.p, GatherHeads(spec_, a), begin, call_.context,
                               call_.carry, call_.probe);
    const Var read =
        RmsNorm(y, call_.p.Get("memory.read_norm.weight"), spec_.own_heads(), spec_.epsilon);
    if (open.count == spec_.segment) open = OpenSegment();
    return Mul(a, Sigmoid(read));
  }

  // A segment begins at row `begin`; where a document does too, the memory is reset before it is
  // read.
  void Begin(int64_t begin) {
    if (call_.context.resets.defined()) {
      const int64_t chunk = begin / spec_.rule.chunk;
      ResetMemoryState(spec_.rule, parameters_, call_.context.resets.Slice(1, chunk, chunk + 1),
                       call_.carry.memory);
    }
    call_.carry.segment.first = call_.carry.memory.w;
  }

  // Adds keys and values of rows [begin, end) and of their h, at the same positions.
  void Extend(int64_t begin, int64_t end) {
    OpenSegment& open = call_.carry.segment;
    const Var own = MergeHeads(
        MemoryNetwork(spec_.rule, parameters_, open.first, Slice(recall_, 2, begin, end)));
    const Var h = GatherHeads(spec_, Cast(own, x_.dtype()));
    const RotaryTables tables = {tables_.cos.Slice(2, begin, end),
                                 tables_.sin.Slice(2, begin, end)};
    Append(open.read_keys, Rotate(ProjectHeads(spec_, call_.p, "attention.k.weight", h), tables));
    Append(open.read_values, ProjectHeads(spec_, call_.p, "attention.v.weight", h));
    Append(open.keys, Slice(k_, 2, begin, end));
    Append(open.values, Slice(v_, 2, begin, end));
    open.count += end - begin;
  }

  static void Append(Var& rows, const Var& more) {
    const Var parts[] = {rows, more};
    rows = rows.defined() ? Concat(parts, 2) : more;
  }

  const MixerCall& call_;
  const ModelSpec& spec_;
  const Var& x_;
  MemoryParameters parameters_;
  RotaryTables tables_;
  PersistentKeys persistent_;
  Var q_, k_, v_, recall_;  // [B, H, n, f]; recall_ of WideType, as the memory
};

}  // namespace

Var MacMixer(const MixerCall& call, const Var& x) { return MacSlice(call, x).Run(); }

}  // namespace mnemo
