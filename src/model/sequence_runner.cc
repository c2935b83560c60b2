#include "src/model/sequence_runner.h"

#include <algorithm>

#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "src/model/attention_path.h"
#include "src/model/tensor_split.h"

namespace mnemo {
namespace {

constexpr int kOutsideLayers = -1;

// Flags of the chunks that begin in the slice; several share a group where a group is a segment.
Tensor ChunkResets(const ModelSpec& spec, int64_t length, std::span<const uint8_t> resets,
                   int64_t batch, DType dtype, Device device) {
  const int64_t chunk = spec.rule.chunk, group = spec.alignment();
  const int64_t chunks = (length + chunk - 1) / chunk, groups = (length + group - 1) / group;
  std::vector<double> flags(batch * chunks, 0.0);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t g = 0; g < groups; ++g) {
      if (resets[b * groups + g] != 0) flags[b * chunks + g * group / chunk] = 1;
    }
  }
  return Tensor::FromHost(std::span<const double>(flags), {batch, chunks}, WideType(dtype), device);
}

// Whether every sequence of the batch is still in its first document at the end of the slice.
bool InFirstDocuments(std::span<const uint8_t> resets, int64_t position,
                      const std::vector<int64_t>& document_starts) {
  const size_t groups = resets.size() / document_starts.size();
  for (size_t i = 0; i < resets.size(); ++i) {
    // A document that begins with its sequence finds fresh state.
    if (resets[i] != 0 && (position > 0 || i % groups != 0)) return false;
  }
  return std::all_of(document_starts.begin(), document_starts.end(),
                     [](int64_t start) { return start == 0; });
}

}  // namespace

SliceContext MakeSliceContext(const ModelSpec& spec, int64_t position, int64_t length,
                              std::span<const uint8_t> resets,
                              std::vector<int64_t>& document_starts, DType dtype, Device device) {
  SliceContext context{position, length, {}, {}, {}};
  if (InFirstDocuments(resets, position, document_starts)) return context;
  const int64_t batch = static_cast<int64_t>(document_starts.size());
  const int64_t group = spec.alignment(), groups = (length + group - 1) / group;
  Require(static_cast<int64_t>(resets.size()) == batch * groups && position % group == 0,
          "a slice of {} tokens at {} with {} reset flags: documents begin at multiples of {}",
          length, position, resets.size(), group);
  context.starts.resize(batch * length);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < length; ++t) {
      if (t % group == 0 && resets[b * groups + t / group] != 0) document_starts[b] = position + t;
      context.starts[b * length + t] = document_starts[b];
    }
  }
  if (spec.has_memory()) context.resets = ChunkResets(spec, length, resets, batch, dtype, device);
  return context;
}

SequenceRunner::SequenceRunner(const ModelSpec& spec, const ParameterSet& parameters, int64_t batch)
    : spec_(spec),
      parameters_(parameters),
      batch_(batch),
      outside_(parameters, kOutsideLayers, nullptr),
      carries_(spec.layers),
      document_starts_(batch, 0) {
  for (int layer = 0; layer < spec.layers; ++layer) {
    layers_.emplace_back(parameters, layer, nullptr);
  }
}

Var SequenceRunner::HeadWeight() const {
  return outside_.Get(spec_.tied_embeddings ? "embedding.weight" : "head.weight");
}

Tensor SequenceRunner::Run(const Tensor& tokens, std::span<const uint8_t> resets) {
  Require(tokens.rank() == 1 && tokens.elements() > 0 && tokens.elements() % batch_ == 0,
          "tokens of shape {} for {} sequences", tokens.shape(), batch_);
  const int64_t length = tokens.elements() / batch_;
  const Tensor& table = parameters_.Compute(parameters_.Find("embedding.weight"));
  SliceContext context = MakeSliceContext(spec_, position_, length, resets, document_starts_,
                                          table.dtype(), table.device());
  context.rotary = MakeSliceRotary(spec_, context, batch_, table.dtype(), table.device());
  Var x(EmbedTokens(spec_, table, tokens).Reshape({batch_, length, spec_.width}));
  for (int layer = 0; layer < spec_.layers; ++layer) {
    BlockResult result = RunBlock(spec_, layers_[layer], x, carries_[layer], context);
    x = result.y;
    // Parts that are views of the slice's tensors would keep all of those alive.
    ForEachVar(spec_, result.carry, [length](Var& part) {
      part = Var(length > 1 ? part.value().Clone() : part.value().Contiguous());
    });
    carries_[layer] = std::move(result.carry);
  }
  position_ += length;
  const Var rows = RmsNorm(x, outside_.Get("final_norm.weight"), 1, spec_.epsilon);
  return rows.value().Reshape({batch_ * length, spec_.width});
}

Tensor SequenceRunner::Losses(const Tensor& rows, const Tensor& targets, int64_t tile) const {
  return CrossEntropy(Var(rows), HeadWeight(), targets, tile, PartOfVocabulary(spec_)).value();
}

Tensor SequenceRunner::Logits(const Tensor& rows) const {
  Require(spec_.split.ranks == 1, "logits of a model that is held in {} parts", spec_.split.ranks);
  return WideMatMul(Var(rows), Transpose(HeadWeight())).value();
}

int64_t SequenceRunner::StateBytes() {
  int64_t bytes = 0;
  for (std::optional<Carry>& carry : carries_) {
    if (!carry.has_value()) continue;
    ForEachVar(spec_, *carry, [&bytes](Var& part) { bytes += part.value().bytes(); });
  }
  return bytes;
}

}  // namespace mnemo
