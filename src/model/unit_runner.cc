#include "src/model/unit_runner.h"

#include "src/core/backend.h"
#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/layers.h"
#include "src/core/fused_op.h"
#include "src/core/ops.h"
#include "src/model/attention_path.h"
#include "src/model/tensor_split.h"

namespace mnemo {
namespace {

// The parameters outside the layers, as UnitParameters counts them.
constexpr int kOutside = -1;

}  // namespace

// A block's call, whose outputs can be differentiated if it was taped.
struct UnitRunner::Call {
  Tape tape;
  std::optional<UnitParameters> parameters;
  Var x;
  std::vector<Var> carry_in;
  Var y;  // [B, n, d]
  std::vector<Var> carry_out;
};

struct UnitRunner::InFlight {
  SliceTokens tokens;
  Tensor x;   // forward: the next layer's input; after the last layer, the head's
  Tensor dx;  // backward: gradient of what the next unit put out
  // What each layer keeps for the backward pass, and of inputs last the head; empty entries are not
  // kept.
  std::vector<Tensor> inputs;
  std::vector<std::vector<Tensor>> carries;
  std::vector<std::unique_ptr<Call>> calls;
};

UnitRunner::UnitRunner(const ModelSpec& spec, const ParameterSet& parameters, TokenSource& source,
                       int layers, const WavefrontOptions& options, ParameterSet* gradients)
    : spec_(spec),
      parameters_(parameters),
      source_(source),
      layers_(layers),
      options_(options),
      head_(parameters.Find(spec.tied_embeddings ? "embedding.weight" : "head.weight")),
      gradients_(gradients),
      statistics_(layers),
      statistics_units_(layers) {}

UnitRunner::~UnitRunner() = default;

UnitRunner::InFlight& UnitRunner::Begin(const Key& key) {
  auto slice = std::make_unique<InFlight>();
  slice->tokens = source_.Get(key.micro_batch, key.slice);
  MakeRotary(*slice);
  slice->x = Embed(slice->tokens);
  slice->inputs.resize(layers_ + 1);
  slice->carries.resize(layers_);
  slice->calls.resize(layers_);
  return *(slices_[key] = std::move(slice));
}

// All layers of a slice run one after the other, forward and backward, so that one slice's tables
// are held at a time.
void UnitRunner::MakeRotary(InFlight& slice) const {
  SliceContext& context = slice.tokens.context;
  RotaryCache* cache = context.starts.empty() ? options_.rotary : nullptr;
  if (cache != nullptr && cache->position == context.position && cache->length == context.length) {
    context.rotary = cache->tables;
    return;
  }
  context.rotary = MakeSliceRotary(spec_, context, options_.batch, parameters_.compute_dtype(),
                                   parameters_.flat().device());
  if (cache != nullptr) *cache = {context.position, context.length, context.rotary};
}

Tensor UnitRunner::Embed(const SliceTokens& tokens) const {
  const Tensor& table = parameters_.Compute(parameters_.Find("embedding.weight"));
  const Tensor rows = EmbedTokens(spec_, table, tokens.tokens);
  return rows.Reshape({options_.batch, tokens.context.length, spec_.width});
}

std::unique_ptr<UnitRunner::Call> UnitRunner::RunLayer(int layer, const Tensor& x,
                                                       const std::vector<Tensor>& carry,
                                                       const SliceContext& context, bool taped,
                                                       BlockProbe* probe) {
  auto call = std::make_unique<Call>();
  const auto leaf = [&](const Tensor& value) {
    return taped ? call->tape.Leaf(value) : Var(value);
  };
  call->parameters.emplace(parameters_, layer, taped ? &call->tape : nullptr, gradients_);
  call->x = leaf(x);
  for (const Tensor& part : carry) call->carry_in.push_back(leaf(part));
  std::optional<Carry> carry_in;
  if (context.position > 0) {
    carry_in = UnflattenCarry(spec_, context.position, call->carry_in);
  }
  BlockResult result = RunBlock(spec_, *call->parameters, call->x, carry_in, context, probe);
  call->y = result.y;
  call->carry_out = FlattenCarry(spec_, result.carry);
  return call;
}

Var UnitRunner::NormalizeRows(const Var& x, const UnitParameters& outside) const {
  const Var rows = RmsNorm(x, outside.Get("final_norm.weight"), 1, spec_.epsilon);
  return Reshape(rows, {-1, spec_.width});
}

void UnitRunner::RunHead(const Key& key, InFlight& slice) {
  const UnitParameters outside(parameters_, kOutside, nullptr);
  const Var rows = NormalizeRows(slice.x, outside);
  AddLosses(key, CrossEntropy(rows, Var(parameters_.Compute(head_)), slice.tokens.targets,
                              options_.vocabulary_tile, PartOfVocabulary(spec_))
                     .value());
}

// Losses and gradients at once: what takes the most, the logits, is then computed once.
Tensor UnitRunner::DifferentiateHead(const Key& key, InFlight& slice) {
  Tape tape;
  const UnitParameters outside(parameters_, kOutside, &tape, gradients_);
  const Var x = tape.Leaf(slice.inputs[layers_]);
  slice.inputs[layers_] = Tensor();
  const Var rows = NormalizeRows(x, outside);
  const CrossEntropyGradients head = CrossEntropyWithGradients(
      rows.value(), parameters_.Compute(head_), slice.tokens.targets, options_.vocabulary_tile,
      options_.loss_scale, PartOfVocabulary(spec_));
  AddLosses(key, head.losses);
  AddGradient(head_, head.head);
  std::vector<Var> wrt = outside.vars();
  wrt.push_back(x);
  return tape.Gradient({&rows, 1}, {&head.x, 1}, wrt).back();
}

void UnitRunner::AddLosses(const Key& key, const Tensor& losses) {
  losses_[key] = losses;
  const Var sum = SumAll(Cast(losses, DType::kF64));
  loss_sum_ = loss_sum_.defined() ? Add(Var(loss_sum_), sum).value() : sum.value();
}

std::vector<Tensor> UnitRunner::Forward(const Unit& unit, std::vector<Tensor> carry) {
  const Key key{unit.micro_batch, unit.slice};
  InFlight& slice = unit.layer == 0 ? Begin(key) : *slices_.at(key);
  BlockProbe probe;
  std::unique_ptr<Call> call =
      RunLayer(unit.layer, slice.x, carry, slice.tokens.context, keeps(Rematerialization::kKeepAll),
               options_.statistics ? &probe : nullptr);
  if (probe.numbers.defined()) AddStatistics(unit.layer, probe.numbers);
  std::vector<Tensor> carry_out;
  for (const Var& part : call->carry_out) {
    const Tensor& value = part.value();
    carry_out.push_back(value.fills_storage() ? value : value.Clone());
  }
  if (keeps(Rematerialization::kUnits)) slice.inputs[unit.layer] = slice.x;
  if (gradients_ != nullptr) slice.carries[unit.layer] = std::move(carry);
  slice.x = call->y.value();
  if (keeps(Rematerialization::kKeepAll)) slice.calls[unit.layer] = std::move(call);
  if (unit.layer + 1 == layers_) FinishForward(key, slice);
  return carry_out;
}

void UnitRunner::FinishForward(const Key& key, InFlight& slice) {
  if (gradients_ == nullptr) RunHead(key, slice);
  if (!keeps(Rematerialization::kSlices)) slice.inputs[layers_] = slice.x;
  slice.x = Tensor();
  slice.tokens.context.rotary = {};
  if (gradients_ == nullptr) slices_.erase(key);
}

// The slice once more through all layers without a tape, keeping each layer's input.
void UnitRunner::RunAgain(InFlight& slice) {
  Tensor x = Embed(slice.tokens);
  for (int layer = 0; layer < layers_; ++layer) {
    slice.inputs[layer] = x;
    x = RunLayer(layer, x, slice.carries[layer], slice.tokens.context, false, nullptr)->y.value();
  }
  slice.inputs[layers_] = x;
}

std::vector<Tensor> UnitRunner::Backward(const Unit& unit, std::vector<Tensor> carry_adjoint) {
  MNEMO_CHECK(gradients_ != nullptr, "this runner was made for the forward pass only");
  const Key key{unit.micro_batch, unit.slice};
  InFlight& slice = *slices_.at(key);
  std::vector<Tensor> carry_in_adjoint;
  if (unit.layer + 1 == layers_) {
    if (!keeps(Rematerialization::kKeepAll)) MakeRotary(slice);
    if (options_.rematerialization == Rematerialization::kSlices) RunAgain(slice);
    slice.dx = DifferentiateHead(key, slice);
  }
  std::unique_ptr<Call> call = std::move(slice.calls[unit.layer]);
  if (call == nullptr) {
    const BackwardFollows follows;
    call = RunLayer(unit.layer, slice.inputs[unit.layer], slice.carries[unit.layer],
                    slice.tokens.context, true, nullptr);
  }
  slice.inputs[unit.layer] = Tensor();
  slice.carries[unit.layer].clear();
  slice.dx = Differentiate(*call, slice.dx, std::move(carry_adjoint), carry_in_adjoint);
  if (options_.on_backward) options_.on_backward(unit, slice.dx, carry_in_adjoint);
  if (unit.layer == 0) {
    const int embedding = parameters_.Find("embedding.weight");
    const Tensor rows = slice.dx.Reshape({-1, spec_.width});
    AddGradient(embedding, EmbeddingGradient(spec_, rows, slice.tokens.tokens));
    slices_.erase(key);
  }
  return carry_in_adjoint;
}

Tensor UnitRunner::Differentiate(Call& call, const Tensor& dy, std::vector<Tensor> carry_adjoint,
                                 std::vector<Tensor>& carry_in_adjoint) {
  MNEMO_CHECK(carry_adjoint.empty() || carry_adjoint.size() == call.carry_out.size());
  std::vector<Var> outputs{call.y};
  std::vector<Tensor> seeds{dy};
  for (size_t i = 0; i < carry_adjoint.size(); ++i) {
    outputs.push_back(call.carry_out[i]);
    seeds.push_back(std::move(carry_adjoint[i]));
  }
  std::vector<Var> wrt = call.parameters->vars();
  const size_t count = wrt.size();
  wrt.push_back(call.x);
  wrt.insert(wrt.end(), call.carry_in.begin(), call.carry_in.end());
  // Those of the parameters are added up by the tape.
  std::vector<Tensor> gradients = call.tape.Gradient(outputs, seeds, wrt);
  for (size_t i = 0; i < call.carry_in.size(); ++i) {
    Tensor& adjoint = gradients[count + 1 + i];
    const Tensor& value = call.carry_in[i].value();
    carry_in_adjoint.push_back(adjoint.defined()
                                   ? adjoint.Contiguous()
                                   : Tensor::Zeros(value.shape(), value.dtype(), value.device()));
  }
  return gradients[count];
}

void UnitRunner::AddGradient(int parameter, const Tensor& gradient) {
  const Tensor& sum = (*gradients_)[parameter];
  Backend::For(sum.device()).Binary(BinaryOp::kAdd, sum, gradient, sum);
}

void UnitRunner::AddStatistics(int layer, const Tensor& numbers) {
  Tensor& sum = statistics_[layer];
  sum = sum.defined() ? Add(Var(sum), Var(numbers)).value() : numbers;
  ++statistics_units_[layer];
}

std::vector<BlockStatistics> UnitRunner::Statistics() const {
  std::vector<BlockStatistics> means(statistics_.size());
  std::vector<Var> sums;
  for (const Tensor& sum : statistics_) {
    if (sum.defined()) sums.emplace_back(sum);
  }
  if (sums.empty()) return means;
  const std::vector<double> numbers = Concat(sums, 0).value().ToDoubles();
  size_t next = 0;
  for (size_t layer = 0; layer < means.size(); ++layer) {
    if (!statistics_[layer].defined()) continue;
    const double units = static_cast<double>(statistics_units_[layer]);
    means[layer] = {.theta = numbers[next] / units,
                    .eta = numbers[next + 1] / units,
                    .alpha = numbers[next + 2] / units,
                    .state_norm = numbers[next + 3] / units,
                    .clamp_hits = static_cast<int64_t>(numbers[next + 4])};
    next += kStatistics;
  }
  return means;
}

const Tensor& UnitRunner::Losses(int micro_batch, int64_t slice) const {
  return losses_.at({micro_batch, slice});
}

}  // namespace mnemo
