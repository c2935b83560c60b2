#include <algorithm>

#include "src/core/counted/counted_kernels.h"
#include "src/core/counting_backend.h"
#include "src/core/cuda/attention.h"
#include "src/core/cuda/layout.h"

// Follows cuda/attention.cc and cuda/sdpa.cc.
namespace mnemo {
namespace {

using Tensors = std::vector<Tensor>;
using List = std::span<const Tensor>;

constexpr int64_t kBackwardWorkspace = int64_t{2} << 30;
constexpr size_t kMaxParts = 4;

Tensor EmptyRows(const Tensor& like, int64_t rows) {
  return cuda::EmptyPerHead(like.dim(0), like.dim(1), rows, like.dim(3), like.dtype(),
                            like.device());
}

Tensor Readable(const Tensor& x) {
  const bool dense = x.strides()[3] == 1 || x.dim(3) == 1;
  bool aligned = reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0;
  for (int axis = 0; axis < 3; ++axis) {
    aligned = aligned && x.strides()[axis] % 8 == 0 && (x.dim(axis) == 1 || x.strides()[axis] > 0);
  }
  return dense && aligned ? x : x.Clone();
}

Tensor Gather(List inputs, const cuda::AttentionPart& part, size_t offset) {
  const Tensor& first = inputs[part.keys[0] + offset];
  if (part.keys.size() > 1) return EmptyRows(inputs[0], part.rows);
  Shape shape = first.shape();
  shape[0] = inputs[0].dim(0);
  return Readable(first.BroadcastTo(shape));
}

// What cuDNN's backward pass takes: the row sums of o * grad_o and, where sums have a fixed order,
// the gradients of all scores in bf16, else the gradient of q in f32.
int64_t BackwardWorkspace(int64_t batch_heads, int64_t queries, int64_t keys, int64_t head_dim,
                          bool deterministic) {
  constexpr int64_t kTile = 64;
  const auto whole = [](int64_t rows) { return (rows + kTile - 1) / kTile * kTile; };
  const int64_t sums = 4 * batch_heads * queries;
  return sums + (deterministic ? 2 * batch_heads * whole(queries) * whole(keys)
                               : 4 * batch_heads * queries * head_dim);
}

bool Accepts(List inputs, const AttentionAttributes& attributes) {
  const Tensor& q = inputs[0];
  if (q.dtype() != DType::kBF16 || q.dim(3) % 8 != 0 || q.dim(3) > 128) return false;
  const auto parts = cuda::PlanAttention(inputs, attributes);
  return parts.has_value() && parts->size() <= kMaxParts;
}

Tensors Forward(List inputs, const AttentionAttributes& attributes, Tensors* saved) {
  const Tensor q = Readable(inputs[0]);
  const auto new_stats = [&] {
    return Tensor::Empty({q.dim(0), q.dim(1), q.dim(2)}, DType::kF32, q.device());
  };
  const std::vector<cuda::AttentionPart> parts = *cuda::PlanAttention(inputs, attributes);
  Tensors outputs, stats;
  for (const cuda::AttentionPart& part : parts) {
    const Tensor k = Gather(inputs, part, 0), v = Gather(inputs, part, 1);
    outputs.push_back(EmptyRows(q, q.dim(2)));
    stats.push_back(new_stats());
  }
  const Tensor merged = parts.size() > 1 ? new_stats() : stats[0];
  if (saved != nullptr) *saved = {outputs[0], merged};
  return {outputs[0]};
}

// One call of cuDNN on q [B, H, T, f].
void CountCall(const Tensor& q, const Tensor& stats, int64_t keys, bool deterministic) {
  const Tensor dense = stats.Contiguous();
  CountedScratch scratch(q.device());
  scratch.Take(BackwardWorkspace(q.dim(0) * q.dim(1), q.dim(2), keys, q.dim(3), deterministic));
}

// A piece that is cut further, into queries: what keys and values get is added up in f32.
void CountQueries(const Tensor& q, const Tensor& stats, const Tensor& k, int64_t queries,
                  const cuda::AttentionPart& part) {
  const Tensor sum_k = Tensor::Empty(k.shape(), DType::kF32, k.device());
  const Tensor sum_v = Tensor::Empty(k.shape(), DType::kF32, k.device());
  const int64_t before = part.rows - q.dim(2);
  for (int64_t begin = 0; begin < q.dim(2); begin += queries) {
    const int64_t end = std::min(q.dim(2), begin + queries);
    const int64_t first =
        part.window > 0 ? std::max<int64_t>(0, before + begin - part.window + 1) : 0;
    const int64_t keys = before + end - first;
    const Tensor to_k = EmptyRows(k, keys), to_v = EmptyRows(k, keys);
    CountCall(q.Slice(2, begin, end), stats.Slice(2, begin, end), keys, true);
  }
}

struct PartGradients {
  Tensor q, k, v;
};

PartGradients PartBackward(const Tensor& q, const cuda::AttentionPart& part, const Tensor& k,
                           const Tensor& v, const Tensor& stats) {
  const bool deterministic = GetFusedPolicy().deterministic;
  PartGradients result{EmptyRows(q, q.dim(2)), EmptyRows(k, k.dim(2)), EmptyRows(v, v.dim(2))};
  const cuda::BackwardPiece piece =
      deterministic ? cuda::PieceOfBackward(q.shape(), part.rows, kBackwardWorkspace)
                    : cuda::BackwardPiece{q.dim(0), q.dim(1), q.dim(2)};
  // The first piece is as large as any.
  const auto some = [&](const Tensor& x) {
    return x.Slice(0, 0, std::min(q.dim(0), piece.sequences))
        .Slice(1, 0, std::min(q.dim(1), piece.heads));
  };
  if (piece.queries == q.dim(2) || !part.causal) {
    CountCall(some(q), some(stats), part.rows, deterministic);
  } else {
    CountQueries(some(q), some(stats), some(k), piece.queries, part);
  }
  return result;
}

void Distribute(List inputs, const cuda::AttentionPart& part, size_t offset, const Tensor& gradient,
                Tensors& gradients) {
  int64_t begin = 0;
  for (const size_t input : part.keys) {
    const Tensor& run = inputs[input + offset];
    gradients[input + offset] = gradient.Slice(2, begin, begin + run.dim(2));
    begin += run.dim(2);
    if (run.dim(0) != gradient.dim(0)) {
      gradients[input + offset] = Tensor::Empty(run.shape(), run.dtype(), run.device());
    }
  }
}

Tensors Backward(List inputs, const AttentionAttributes& attributes, List saved,
                 List output_gradients, const std::vector<bool>&) {
  const Tensor q = Readable(inputs[0]), grad_o = Readable(output_gradients[0]);
  Tensors gradients(inputs.size());
  const std::vector<cuda::AttentionPart> parts = *cuda::PlanAttention(inputs, attributes);
  for (const cuda::AttentionPart& part : parts) {
    const Tensor k = Gather(inputs, part, 0), v = Gather(inputs, part, 1);
    const PartGradients of = PartBackward(q, part, k, v, saved[1]);
    if (!gradients[0].defined()) gradients[0] = of.q;
    Distribute(inputs, part, 0, of.k, gradients);
    Distribute(inputs, part, 1, of.v, gradients);
  }
  return gradients;
}

}  // namespace

void RegisterCountedAttention() {
  AttentionOp().Register(kCountingGpuType,
                         {.accepts = Accepts, .forward = Forward, .backward = Backward});
}

}  // namespace mnemo
