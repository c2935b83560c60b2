#include "src/core/cuda/attention.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "src/core/cuda/attention_merge.h"
#include "src/core/cuda/cuda_backend.h"
#include "src/core/cuda/layout.h"
#include "src/core/cuda/sdpa.h"

namespace mnemo::cuda {
namespace {

// Scores that the deterministic backward pass may hold at a time, in bytes.
constexpr int64_t kBackwardWorkspace = int64_t{2} << 30;

// cuDNN's graphs of one GPU; a call holds the lock.
struct Graphs {
  std::mutex mutex;
  SdpaGraphs graphs;
};
Graphs& GraphsOf(int device) {
  static std::mutex mutex;
  // Never destroyed: at the program's end cuDNN may be gone first.
  static auto* all = new std::map<int, Graphs>;
  std::lock_guard lock(mutex);
  return (*all)[device];
}

CudaDevice& DeviceOf(const Tensor& x) { return static_cast<CudaDevice&>(Backend::For(x.device())); }

Tensor EmptyRows(const Tensor& like, int64_t rows) {
  return EmptyPerHead(like.dim(0), like.dim(1), rows, like.dim(3), like.dtype(), like.device());
}

SdpaStrides StridesOf(const Tensor& x) { return {x.strides()[0], x.strides()[1], x.strides()[2]}; }

// cuDNN wants the features of a head side by side, on 16 bytes.
Tensor Readable(const Tensor& x) {
  const bool dense = x.strides()[3] == 1 || x.dim(3) == 1;
  bool aligned = reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0;
  for (int axis = 0; axis < 3; ++axis) {
    aligned = aligned && x.strides()[axis] % 8 == 0 && (x.dim(axis) == 1 || x.strides()[axis] > 0);
  }
  return dense && aligned ? x : x.Clone();
}

// Keys (offset 0) or values (1) of a part: its runs one after the other, for every sequence.
Tensor Gather(std::span<const Tensor> inputs, const AttentionPart& part, size_t offset) {
  const Tensor& q = inputs[0];
  const Tensor& first = inputs[part.keys[0] + offset];
  if (part.keys.size() == 1) {
    Shape shape = first.shape();
    shape[0] = q.dim(0);
    return Readable(first.BroadcastTo(shape));
  }
  const Tensor all = EmptyRows(q, part.rows);
  int64_t begin = 0;
  for (const size_t input : part.keys) {
    const Tensor& run = inputs[input + offset];
    Backend::For(q.device()).Copy(run, all.Slice(2, begin, begin + run.dim(2)));
    begin += run.dim(2);
  }
  return all;
}

SdpaShape ShapeOf(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                  const AttentionPart& part) {
  SdpaShape shape;
  shape.batch = q.dim(0);
  shape.heads = q.dim(1);
  shape.queries = q.dim(2);
  shape.keys = k.dim(2);
  shape.head_dim = q.dim(3);
  shape.causal = part.causal;
  shape.window = part.window < shape.keys ? part.window : 0;
  shape.q = StridesOf(q);
  shape.k = StridesOf(k);
  shape.v = StridesOf(v);
  shape.o = StridesOf(o);
  return shape;
}

bool Accepts(std::span<const Tensor> inputs, const AttentionAttributes& attributes) {
  const Tensor& q = inputs[0];
  if (q.dtype() != DType::kBF16 || q.dim(3) % 8 != 0 || q.dim(3) > 128) return false;
  const auto parts = PlanAttention(inputs, attributes);
  return parts.has_value() && parts->size() <= kMaxAttentionParts;
}

// Output [B, H, T, f] and, in `saved`, the stats [B, H, T] of all keys.
std::vector<Tensor> Forward(std::span<const Tensor> inputs, const AttentionAttributes& attributes,
                            std::vector<Tensor>* saved) {
  const Tensor q = Readable(inputs[0]);
  CudaDevice& device = DeviceOf(q);
  const std::vector<AttentionPart> parts = *PlanAttention(inputs, attributes);
  const Shape stats_shape{q.dim(0), q.dim(1), q.dim(2)};
  const auto new_stats = [&] { return Tensor::Empty(stats_shape, DType::kF32, q.device()); };
  std::vector<Tensor> outputs, stats;
  Graphs& graphs = GraphsOf(q.device().index);
  for (const AttentionPart& part : parts) {
    const Tensor k = Gather(inputs, part, 0), v = Gather(inputs, part, 1);
    outputs.push_back(EmptyRows(q, q.dim(2)));
    stats.push_back(new_stats());
    CudaScratch scratch(device);
    std::lock_guard lock(graphs.mutex);
    graphs.graphs.Forward(
        scratch.launch(), ShapeOf(q, k, v, outputs.back(), part),
        {q.raw(), k.raw(), v.raw(), outputs.back().raw(), stats.back().data<float>()});
  }
  Tensor output = outputs[0], all_stats = stats[0];
  if (parts.size() > 1) {
    all_stats = new_stats();
    MergeCall call{};
    call.count = static_cast<int>(parts.size());
    call.merged = output.raw();
    call.merged_stats = all_stats.data<float>();
    call.batch = q.dim(0);
    call.tokens = q.dim(2);
    call.heads = q.dim(1);
    call.head_dim = q.dim(3);
    for (size_t i = 0; i < parts.size(); ++i) {
      call.outputs[i] = outputs[i].raw();
      call.stats[i] = stats[i].data<float>();
    }
    CudaScratch scratch(device);
    MergeAttention(scratch.launch(), call);
  }
  if (saved != nullptr) *saved = {output, all_stats};
  return {output};
}

struct PartGradients {
  Tensor q, k, v;  // k and v of the part
};

// The backward pass of one part, a piece at a time where its workspace asks for that.
class PartBackward {
 public:
  explicit PartBackward(const AttentionPart& part)
      : part_(part), deterministic_(GetFusedPolicy().deterministic) {}

  PartGradients operator()(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                           const Tensor& stats, const Tensor& grad_o) const {
    const PartGradients to{EmptyRows(q, q.dim(2)), EmptyRows(k, k.dim(2)), EmptyRows(v, v.dim(2))};
    const int64_t sequences = q.dim(0), heads = q.dim(1), queries = q.dim(2);
    const BackwardPiece piece = deterministic_
                                    ? PieceOfBackward(q.shape(), part_.rows, kBackwardWorkspace)
                                    : BackwardPiece{sequences, heads, queries};
    for (int64_t b = 0; b < sequences; b += piece.sequences) {
      for (int64_t h = 0; h < heads; h += piece.heads) {
        const auto own = [&](const Tensor& x) {
          return x.Slice(0, b, std::min(sequences, b + piece.sequences))
              .Slice(1, h, std::min(heads, h + piece.heads));
        };
        const Operands of{own(q),      own(k),    own(v),    own(o),   own(stats),
                          own(grad_o), own(to.q), own(to.k), own(to.v)};
        if (piece.queries == queries || !part_.causal) {
          Run(of);
        } else {
          RunQueries(of, piece.queries);
        }
      }
    }
    return to;
  }

 private:
  struct Operands {
    Tensor q, k, v, o, stats, grad_o;
    Tensor grad_q, grad_k, grad_v;  // written
  };

  void Run(const Operands& of) const {
    SdpaShape shape = ShapeOf(of.q, of.k, of.v, of.o, part_);
    shape.deterministic = deterministic_;
    shape.grad_o = StridesOf(of.grad_o);
    shape.grad_q = StridesOf(of.grad_q);
    shape.grad_k = StridesOf(of.grad_k);
    shape.grad_v = StridesOf(of.grad_v);
    const Tensor stats = of.stats.Contiguous();
    CudaScratch scratch(DeviceOf(of.q));
    Graphs& graphs = GraphsOf(of.q.device().index);
    std::lock_guard lock(graphs.mutex);
    graphs.graphs.Backward(
        scratch.launch(), shape,
        {of.q.raw(), of.k.raw(), of.v.raw(), of.o.raw(), of.grad_o.raw(), stats.data<float>(),
         of.grad_q.raw(), of.grad_k.raw(), of.grad_v.raw()});
  }

  // So many queries at a time; what keys and values get from each is added up in f32.
  void RunQueries(const Operands& of, int64_t queries) const {
    Backend& backend = Backend::For(of.q.device());
    const Tensor sum_k = Tensor::Zeros(of.k.shape(), DType::kF32, of.k.device());
    const Tensor sum_v = Tensor::Zeros(of.v.shape(), DType::kF32, of.v.device());
    const int64_t before = part_.rows - of.q.dim(2);  // keys older than the first query
    for (int64_t begin = 0; begin < of.q.dim(2); begin += queries) {
      const int64_t end = std::min(of.q.dim(2), begin + queries), last = before + end;
      const int64_t first =
          part_.window > 0 ? std::max<int64_t>(0, before + begin - part_.window + 1) : 0;
      const auto some = [&](const Tensor& x) { return x.Slice(2, begin, end); };
      const auto seen = [&](const Tensor& x) { return x.Slice(2, first, last); };
      const Tensor to_k = EmptyRows(of.k, last - first), to_v = EmptyRows(of.v, last - first);
      Run({some(of.q), seen(of.k), seen(of.v), some(of.o), some(of.stats), some(of.grad_o),
           some(of.grad_q), to_k, to_v});
      backend.Binary(BinaryOp::kAdd, seen(sum_k), to_k, seen(sum_k));
      backend.Binary(BinaryOp::kAdd, seen(sum_v), to_v, seen(sum_v));
    }
    backend.Copy(sum_k, of.grad_k);
    backend.Copy(sum_v, of.grad_v);
  }

  const AttentionPart& part_;
  const bool deterministic_;
};

// The gradient of a part's gathered keys or values, given to the runs that they came from.
void Distribute(std::span<const Tensor> inputs, const AttentionPart& part, size_t offset,
                const Tensor& gradient, std::vector<Tensor>& gradients) {
  int64_t begin = 0;
  for (const size_t input : part.keys) {
    const Tensor& run = inputs[input + offset];
    Tensor own = gradient.Slice(2, begin, begin + run.dim(2));
    begin += run.dim(2);
    if (run.dim(0) != gradient.dim(0)) {  // persistent: the same for all sequences
      const Tensor sum = Tensor::Empty(run.shape(), run.dtype(), run.device());
      Backend::For(run.device()).Reduce(ReduceOp::kSum, own, sum);
      own = sum;
    }
    gradients[input + offset] = own;
  }
}

std::vector<Tensor> Backward(std::span<const Tensor> inputs, const AttentionAttributes& attributes,
                             std::span<const Tensor> saved,
                             std::span<const Tensor> output_gradients, const std::vector<bool>&) {
  const Tensor q = Readable(inputs[0]), grad_o = Readable(output_gradients[0]);
  std::vector<Tensor> gradients(inputs.size());
  const std::vector<AttentionPart> parts = *PlanAttention(inputs, attributes);
  for (const AttentionPart& part : parts) {
    const Tensor k = Gather(inputs, part, 0), v = Gather(inputs, part, 1);
    const PartGradients result = PartBackward(part)(q, k, v, saved[0], saved[1], grad_o);
    if (gradients[0].defined()) {
      Backend::For(q.device()).Binary(BinaryOp::kAdd, gradients[0], result.q, gradients[0]);
    } else {
      gradients[0] = result.q;
    }
    Distribute(inputs, part, 0, result.k, gradients);
    Distribute(inputs, part, 1, result.v, gradients);
  }
  return gradients;
}

}  // namespace

void RegisterAttention() {
  AttentionOp().Register(DeviceType::kCuda,
                         {.accepts = Accepts, .forward = Forward, .backward = Backward});
}

}  // namespace mnemo::cuda
