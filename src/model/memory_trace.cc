#include "src/model/memory_trace.h"

#include <algorithm>
#include <optional>

#include "src/core/backend.h"
#include "src/core/ops.h"
#include "src/model/block.h"
#include "src/model/memory_path.h"

namespace mnemo {
namespace {

// Tokens of a slice, about: activations of one block over them are held at once.
constexpr int64_t kSliceTokens = 2048;

// Writes rows to whole sequences of one layer's memory inputs.
class Recorder {
 public:
  explicit Recorder(int64_t tokens) : tokens_(tokens) {}

  void Add(const MemoryTokens& tokens) {
    const Var* sources[] = {&tokens.q,     &tokens.k,   &tokens.v,
                            &tokens.theta, &tokens.eta, &tokens.alpha};
    for (size_t i = 0; i < std::size(sources); ++i) Put(*sources[i], whole_[i]);
    next_ += tokens.q.dim(2);
  }

  MemoryTokens Rows(int64_t begin, int64_t end) const {
    const auto rows = [&](const Tensor& x) {
      return x.defined() ? Var(x.Slice(2, begin, end)) : Var();
    };
    return {rows(whole_[0]), rows(whole_[1]), rows(whole_[2]),
            rows(whole_[3]), rows(whole_[4]), rows(whole_[5])};
  }

 private:
  void Put(const Var& x, Tensor& whole) {
    if (!x.defined()) return;
    if (!whole.defined()) {
      Shape shape = x.shape();
      shape[2] = tokens_;
      whole = Tensor::Empty(shape, x.dtype(), x.device());
    }
    Backend::For(x.device()).Copy(x.value(), whole.Slice(2, next_, next_ + x.dim(2)));
  }

  int64_t tokens_, next_ = 0;
  Tensor whole_[6];
};

// Runs one layer over x [1, T, d], which becomes its output.
Recorder RunLayer(const ModelSpec& spec, const UnitParameters& p, Tensor& x) {
  const int64_t tokens = x.dim(1);
  const int64_t unit = spec.alignment();
  const int64_t step = std::max<int64_t>(1, kSliceTokens / unit) * unit;
  Recorder recorder(tokens);
  std::optional<Carry> carry;
  for (int64_t begin = 0; begin < tokens; begin += step) {
    const int64_t end = std::min(tokens, begin + step);
    BlockProbe probe;
    probe.memory_tokens = [&](const MemoryTokens& seen) { recorder.Add(seen); };
    BlockResult result =
        RunBlock(spec, p, Var(x.Slice(1, begin, end)), carry, {begin, end - begin, {}, {}}, &probe);
    // Parts that are views of the slice's tensors would keep all of those alive.
    ForEachVar(spec, result.carry, [](Var& part) { part = Var(part.value().Clone()); });
    carry = std::move(result.carry);
    Backend::For(x.device()).Copy(result.y.value(), x.Slice(1, begin, end));
  }
  return recorder;
}

}  // namespace

absl::Status TraceMemories(const ModelSpec& spec, const ParameterSet& parameters,
                           std::span<const int32_t> tokens, const LayerMemorySink& sink) {
  if (!spec.has_memory()) return InvalidArgument("a TRANSFORMER has no memory to look at");
  const int64_t count = static_cast<int64_t>(tokens.size());
  const Tensor ids = Tensor::FromHost(tokens, {count});
  Tensor x = GatherRows(Var(parameters.Get("embedding.weight")), ids)
                 .value()
                 .Reshape({1, count, spec.width});
  for (int layer = 0; layer < spec.layers; ++layer) {
    const UnitParameters p(parameters, layer, nullptr);
    const Recorder recorder = RunLayer(spec, p, x);
    MemoryRun run;
    run.rule = spec.rule;
    run.parameters = MemoryParametersOf(spec, p);
    run.heads = spec.heads;
    run.tokens = count;
    run.inputs = [&recorder](int64_t begin, int64_t end) { return recorder.Rows(begin, end); };
    MNEMO_RETURN_IF_ERROR(sink(layer, run));
  }
  return absl::OkStatus();
}

}  // namespace mnemo
