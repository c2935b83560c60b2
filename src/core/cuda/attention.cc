#include "src/core/cuda/attention.h"

#include <algorithm>

#include "src/core/backend.h"
#include "src/core/cuda/layout.h"

namespace mnemo::cuda {
namespace {

using Tensors = std::vector<Tensor>;
using List = std::span<const Tensor>;

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
Tensor Gather(List inputs, const AttentionPart& part, size_t offset) {
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

bool Accepts(List inputs, const AttentionAttributes& attributes) {
  const Tensor& q = inputs[0];
  if (q.dtype() != DType::kBF16 || q.dim(3) % 8 != 0 || q.dim(3) > 128) return false;
  const auto parts = PlanAttention(inputs, attributes);
  return parts.has_value() && parts->size() <= kMaxAttentionParts;
}

MergeCall MergeOf(const Tensors& outputs, const Tensors& stats, const Tensor& merged_stats) {
  const Tensor& first = outputs[0];
  MergeCall call{};
  call.count = static_cast<int>(outputs.size());
  call.merged = first.raw();
  call.merged_stats = merged_stats.data<float>();
  call.batch = first.dim(0);
  call.tokens = first.dim(2);
  call.heads = first.dim(1);
  call.head_dim = first.dim(3);
  for (size_t i = 0; i < outputs.size(); ++i) {
    call.outputs[i] = outputs[i].raw();
    call.stats[i] = stats[i].data<float>();
  }
  return call;
}

// Output [B, H, T, f] and, in `saved`, the stats [B, H, T] of all keys.
Tensors Forward(AttentionCalls& calls, List inputs, const AttentionAttributes& attributes,
                Tensors* saved) {
  const Tensor q = Readable(inputs[0]);
  const auto new_stats = [&] {
    return Tensor::Empty({q.dim(0), q.dim(1), q.dim(2)}, DType::kF32, q.device());
  };
  Tensors outputs, stats;
  const std::vector<AttentionPart> parts = *PlanAttention(inputs, attributes);
  for (const AttentionPart& part : parts) {
    const Tensor k = Gather(inputs, part, 0), v = Gather(inputs, part, 1);
    outputs.push_back(EmptyRows(q, q.dim(2)));
    stats.push_back(new_stats());
    calls.Forward(q.device(), ShapeOf(q, k, v, outputs.back(), part),
                  {q.raw(), k.raw(), v.raw(), outputs.back().raw(), stats.back().data<float>()});
  }
  Tensor all_stats = stats[0];
  if (outputs.size() > 1) {
    all_stats = new_stats();
    calls.Merge(q.device(), MergeOf(outputs, stats, all_stats));
  }
  if (saved != nullptr) *saved = {outputs[0], all_stats};
  return {outputs[0]};
}

// Rows of x [1, H, blocks * rows, f] as [blocks, H, rows, f].
Tensor InBlocks(const Tensor& x, int64_t blocks) {
  if (blocks == 1) return x;
  const int64_t heads = x.dim(1), rows = x.dim(2) / blocks, f = x.dim(3);
  const int order[] = {0, 2, 1, 3, 4};
  return x.View({1, heads, blocks, rows, f}).Permute(order).View({blocks, heads, rows, f});
}

// The backward pass of one part, cut as PlanBackward says.
class PartBackward {
 public:
  struct Gradients {
    Tensor q, k, v;  // k and v of the part
  };

  PartBackward(AttentionCalls& calls, int64_t scores, const AttentionPart& part)
      : calls_(calls),
        scores_(scores),
        part_(part),
        deterministic_(GetFusedPolicy().deterministic) {}

  Gradients operator()(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                       const Tensor& stats, const Tensor& grad_o) const {
    const Gradients to{EmptyRows(q, q.dim(2)), EmptyRows(k, k.dim(2)), EmptyRows(v, v.dim(2))};
    const BackwardPlan plan = PlanBackward(q.shape(), part_, deterministic_, scores_);
    for (int64_t b = 0; b < q.dim(0); b += plan.sequences) {
      for (int64_t h = 0; h < q.dim(1); h += plan.heads) {
        const auto own = [&](const Tensor& x) {
          return x.Slice(0, b, std::min(x.dim(0), b + plan.sequences))
              .Slice(1, h, std::min(x.dim(1), h + plan.heads));
        };
        const Operands of{own(q),      own(k),    own(v),    own(o),   own(stats),
                          own(grad_o), own(to.q), own(to.k), own(to.v)};
        if (plan.blocks.size() == 1 && plan.blocks[0].blocks == 1) {
          Run(of, plan.blocks[0]);
        } else {
          RunBlocks(of, plan);
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

  // Of these queries, keys and values all; of blocks, k and v those of the first.
  void Run(const Operands& of, const QueryBlocks& block) const {
    SdpaShape shape = ShapeOf(of.q, of.k, of.v, of.o, part_);
    shape.deterministic = deterministic_;
    shape.grad_o = StridesOf(of.grad_o);
    shape.grad_q = StridesOf(of.grad_q);
    shape.grad_k = StridesOf(of.grad_k);
    shape.grad_v = StridesOf(of.grad_v);
    if (block.blocks > 1) {
      shape.k[0] = block.queries * shape.k[2];
      shape.v[0] = block.queries * shape.v[2];
    }
    const Tensor stats = of.stats.Contiguous();
    calls_.Backward(of.q.device(), shape,
                    {of.q.raw(), of.k.raw(), of.v.raw(), of.o.raw(), of.grad_o.raw(),
                     stats.data<float>(), of.grad_q.raw(), of.grad_k.raw(), of.grad_v.raw()});
  }

  void RunBlocks(const Operands& of, const BackwardPlan& plan) const {
    Backend& backend = Backend::For(of.q.device());
    const auto sum_of = [&](const Tensor& x) {
      return plan.sums_in_f32 ? Tensor::Empty(x.shape(), DType::kF32, x.device()) : x;
    };
    const Tensor sum_k = sum_of(of.grad_k), sum_v = sum_of(of.grad_v);
    const Tensor stats = of.stats.Reshape({1, of.stats.dim(1), of.stats.dim(2), 1});
    const int64_t before = part_.rows - of.q.dim(2);  // keys older than the first query
    if (before > 0) {
      backend.Fill(sum_k.Slice(2, 0, before), 0);
      backend.Fill(sum_v.Slice(2, 0, before), 0);
    }
    for (const QueryBlocks& block : plan.blocks) {
      const int64_t end = block.query + block.blocks * block.queries;
      const auto some = [&](const Tensor& x) {
        return InBlocks(x.Slice(2, block.query, end), block.blocks);
      };
      const auto seen = [&](const Tensor& x) {
        return x.Slice(2, block.key, block.key + block.keys);
      };
      const auto rows = [&](const Tensor& x) {
        return EmptyPerHead(block.blocks, x.dim(1), block.keys, x.dim(3), x.dtype(), x.device());
      };
      const Tensor to_k = rows(of.k), to_v = rows(of.v);
      Run({some(of.q), seen(of.k), seen(of.v), some(of.o), some(stats), some(of.grad_o),
           some(of.grad_q), to_k, to_v},
          block);
      Collect(block, before, to_k, sum_k);
      Collect(block, before, to_v, sum_v);
    }
    if (plan.sums_in_f32) {
      backend.Copy(sum_k, of.grad_k);
      backend.Copy(sum_v, of.grad_v);
    }
  }

  // The gradients that blocks gave to their keys: those of their queries' own rows come first,
  // older rows have some already.
  static void Collect(const QueryBlocks& block, int64_t before, const Tensor& from,
                      const Tensor& sum) {
    Backend& backend = Backend::For(sum.device());
    const int64_t older = block.keys - block.queries, span = block.blocks * block.queries;
    const int64_t own = before + block.query;
    backend.Copy(from.Slice(2, older, block.keys),
                 InBlocks(sum.Slice(2, own, own + span), block.blocks));
    if (older == 0) return;
    const Tensor onto =
        block.blocks == 1
            ? sum.Slice(2, block.key, block.key + older)
            : InBlocks(sum.Slice(2, block.key, block.key + span), block.blocks).Slice(2, 0, older);
    backend.Binary(BinaryOp::kAdd, onto, from.Slice(2, 0, older), onto);
  }

  AttentionCalls& calls_;
  const int64_t scores_;
  const AttentionPart& part_;
  const bool deterministic_;
};

// The gradient of a part's gathered keys or values, given to the runs that they came from.
void Distribute(List inputs, const AttentionPart& part, size_t offset, const Tensor& gradient,
                Tensors& gradients) {
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

Tensors Backward(AttentionCalls& calls, int64_t scores, List inputs,
                 const AttentionAttributes& attributes, List saved, List output_gradients) {
  const Tensor q = Readable(inputs[0]), grad_o = Readable(output_gradients[0]);
  Tensors gradients(inputs.size());
  const std::vector<AttentionPart> parts = *PlanAttention(inputs, attributes);
  for (const AttentionPart& part : parts) {
    const Tensor k = Gather(inputs, part, 0), v = Gather(inputs, part, 1);
    const PartBackward::Gradients result =
        PartBackward(calls, scores, part)(q, k, v, saved[0], saved[1], grad_o);
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

FusedOp<AttentionAttributes>::Kernel AttentionKernel(AttentionCalls& calls, int64_t scores) {
  return {.accepts = Accepts,
          .forward = [&calls](List inputs, const AttentionAttributes& attributes,
                              Tensors* saved) { return Forward(calls, inputs, attributes, saved); },
          .backward =
              [&calls, scores](List inputs, const AttentionAttributes& attributes, List saved,
                               List gradients, const std::vector<bool>&) {
                return Backward(calls, scores, inputs, attributes, saved, gradients);
              }};
}

}  // namespace mnemo::cuda
