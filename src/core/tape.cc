#include "src/core/tape.h"

#include <algorithm>

#include "src/core/backend.h"
#include "src/core/ops.h"

namespace mnemo {

Var VjpContext::grad(int i) const {
  if (grads_[i].defined()) return grads_[i];
  return Var(Tensor::Zeros((*output_shapes_)[i], (*output_types_)[i], device_));
}

Var Tape::Leaf(Tensor value) {
  Var var(std::move(value));
  var.tape_ = this;
  var.slot_ = static_cast<int>(node_of_slot_.size());
  node_of_slot_.push_back(-1);
  return var;
}

Var Tape::Leaf(Tensor value, Tensor sum) {
  MNEMO_CHECK(sum.shape() == value.shape() &&
              (sum.dtype() == value.dtype() || sum.dtype() == WideType(value.dtype())));
  const Var var = Leaf(std::move(value));
  gradient_sums_[var.slot_] = std::move(sum);
  return var;
}

void Tape::ShareGradientSum(const Var& x, const Var& view,
                            const std::function<Tensor(const Tensor&)>& look) {
  if (!x.tracked()) return;
  const auto found = x.tape_->gradient_sums_.find(x.slot_);
  if (found == x.tape_->gradient_sums_.end()) return;
  Tensor sum = look(found->second);
  if (sum.defined()) x.tape_->gradient_sums_[view.slot_] = std::move(sum);
}

Var Tape::DropValue(const Var& var) const {
  Var placeholder;
  placeholder.tape_ = var.tape_;
  placeholder.slot_ = var.slot_;
  return placeholder;
}

std::vector<Var> Tape::Record(Primitive primitive, std::span<const Var> inputs,
                              std::vector<Tensor> outputs, Saves saves, Vjp vjp) {
  Tape* tape = nullptr;
  for (const Var& input : inputs) {
    if (!input.tracked()) continue;
    MNEMO_CHECK(tape == nullptr || tape == input.tape_, "{}: inputs on two tapes", Name(primitive));
    tape = input.tape_;
  }
  std::vector<Var> results(outputs.begin(), outputs.end());
  if (tape == nullptr) return results;

  Node node{.primitive = primitive,
            .inputs = {},
            .outputs = {},
            .input_shapes = {},
            .output_shapes = {},
            .input_types = {},
            .output_types = {},
            .device = outputs[0].device(),
            .first_slot = static_cast<int>(tape->node_of_slot_.size()),
            .vjp = std::move(vjp)};
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool saved = i < 32 ? (saves.inputs >> i) & 1 : saves.inputs == kSaveAll;
    node.inputs.push_back(saved ? inputs[i] : tape->DropValue(inputs[i]));
    node.input_shapes.push_back(inputs[i].defined() ? inputs[i].shape() : Shape{});
    node.input_types.push_back(inputs[i].dtype());
  }
  for (size_t i = 0; i < results.size(); ++i) {
    results[i].tape_ = tape;
    results[i].slot_ = static_cast<int>(tape->node_of_slot_.size());
    tape->node_of_slot_.push_back(static_cast<int>(tape->nodes_.size()));
    const bool saved = i < 32 ? (saves.outputs >> i) & 1 : saves.outputs == kSaveAll;
    node.outputs.push_back(saved ? results[i] : tape->DropValue(results[i]));
    node.output_shapes.push_back(results[i].shape());
    node.output_types.push_back(results[i].dtype());
  }
  tape->nodes_.push_back(std::move(node));
  return results;
}

// Adds `gradient` to what has flowed into a slot so far, in place where nobody else can see it.
void Tape::Accumulate(int slot, Var gradient, std::vector<Var>& gradients, bool recorded) const {
  if (const auto found = gradient_sums_.find(slot); found != gradient_sums_.end()) {
    const Tensor& sum = found->second;
    Backend::For(sum.device()).Binary(BinaryOp::kAdd, sum, gradient.value(), sum);
    return;
  }
  Var& so_far = gradients[slot];
  if (!so_far.defined()) {
    so_far = std::move(gradient);
    return;
  }
  const Tensor& sum = so_far.value();
  if (!recorded && sum.sole_owner() && sum.contiguous()) {
    Backend::For(sum.device()).Binary(BinaryOp::kAdd, sum, gradient.value(), sum);
    return;
  }
  so_far = Add(so_far, gradient);
}

void Tape::OfferSums(const Node& node, const std::vector<Var>& gradients,
                     VjpContext& context) const {
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const int slot = node.inputs[i].slot_;
    if (!context.needs_[i]) continue;
    const auto found = gradient_sums_.find(slot);
    if (found != gradient_sums_.end()) {
      context.gradient_sums_[i] = found->second;
      continue;
    }
    const auto same = [slot](const Var& input) { return input.tracked() && input.slot_ == slot; };
    if (std::count_if(node.inputs.begin(), node.inputs.end(), same) > 1) continue;
    const Tensor& so_far = gradients[slot].value();
    const bool own = so_far.defined() && so_far.sole_owner() && so_far.contiguous();
    context.so_far_[i] = so_far;
    if (own) context.gradient_sums_[i] = so_far;
  }
}

std::vector<bool> Tape::DependingOn(std::span<const Var> wrt) const {
  std::vector<bool> depends(node_of_slot_.size(), false);
  for (size_t i = 0; i < wrt.size(); ++i) {
    MNEMO_CHECK(wrt[i].tape_ == this, "wrt {} is not tracked on this tape", i);
    depends[wrt[i].slot_] = true;
  }
  for (const Node& node : nodes_) {
    const bool any = std::any_of(node.inputs.begin(), node.inputs.end(), [&](const Var& input) {
      return input.tracked() && depends[input.slot_];
    });
    if (!any) continue;
    for (size_t i = 0; i < node.outputs.size(); ++i) depends[node.first_slot + i] = true;
  }
  return depends;
}

void Tape::RunNode(const Node& node, std::vector<Var>& gradients, const std::vector<bool>& needed,
                   bool recorded) {
  VjpContext context;
  bool reached = false;
  for (size_t i = 0; i < node.output_shapes.size(); ++i) {
    Var& gradient = gradients[node.first_slot + i];
    reached = reached || gradient.defined();
    std::swap(context.grads_.emplace_back(), gradient);
  }
  const auto is_needed = [&](const Var& input) { return input.tracked() && needed[input.slot_]; };
  if (!reached || std::none_of(node.inputs.begin(), node.inputs.end(), is_needed)) return;
  context.results_.resize(node.inputs.size());
  context.input_shapes_ = &node.input_shapes;
  context.output_shapes_ = &node.output_shapes;
  context.output_types_ = &node.output_types;
  context.device_ = node.device;
  for (const Var& input : node.inputs) {
    context.needs_.push_back(is_needed(input));
    context.inputs_.push_back(recorded ? input : input.Detach());
  }
  for (const Var& output : node.outputs) {
    context.outputs_.push_back(recorded ? output : output.Detach());
  }
  const size_t count = node.inputs.size();
  for (auto* tensors : {&context.gradient_sums_, &context.so_far_, &context.totals_}) {
    tensors->resize(count);
  }
  if (!recorded) OfferSums(node, gradients, context);
  node.vjp(context);
  context.grads_.clear();
  context.so_far_.clear();
  for (size_t i = 0; i < count; ++i) {
    if (!context.needs_[i]) continue;
    Var& result = context.results_[i];
    const bool total = context.totals_[i].defined();
    if (total) result = Var(std::move(context.totals_[i]));
    if (!result.defined()) continue;
    MNEMO_CHECK(result.shape() == node.input_shapes[i],
                "{}: gradient of input {} has shape {}, not {}", Name(node.primitive), i,
                ToString(result.shape()), ToString(node.input_shapes[i]));
    const Tensor& sum = context.gradient_sums_[i];
    MNEMO_CHECK(
        result.dtype() == node.input_types[i] || (sum.defined() && result.dtype() == sum.dtype()),
        "{}: gradient of input {} is {}, not {}", Name(node.primitive), i, Name(result.dtype()),
        Name(node.input_types[i]));
    context.gradient_sums_[i] = {};  // else it has two owners
    if (total) gradients[node.inputs[i].slot_] = Var();
    Accumulate(node.inputs[i].slot_, std::move(result), gradients, recorded);
  }
}

std::vector<Var> Tape::Run(std::span<const Var> outputs, std::span<const Var> output_gradients,
                           std::span<const Var> wrt, bool recorded, bool retain) {
  MNEMO_CHECK(outputs.size() == output_gradients.size());
  MNEMO_CHECK(!recorded || gradient_sums_.empty(), "gradients that are added up elsewhere");
  std::vector<Var> gradients(node_of_slot_.size());
  int last = -1;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].tracked() || !output_gradients[i].defined()) continue;
    MNEMO_CHECK(outputs[i].tape_ == this, "output {} is on another tape", i);
    Require(outputs[i].shape() == output_gradients[i].shape(),
            "gradient of shape {} for output {} of shape {}", output_gradients[i].shape(), i,
            outputs[i].shape());
    Accumulate(outputs[i].slot_, output_gradients[i], gradients, recorded);
    last = std::max(last, node_of_slot_[outputs[i].slot_]);
  }
  const std::vector<bool> needed = DependingOn(wrt);
  // A gradient asked for must survive its node: keep it aside when its slot is consumed.
  std::vector<Var> results(wrt.size());
  std::vector<std::pair<int, size_t>> wanted;  // node, index in wrt; interior Vars only
  for (size_t i = 0; i < wrt.size(); ++i) {
    if (node_of_slot_[wrt[i].slot_] >= 0) wanted.emplace_back(node_of_slot_[wrt[i].slot_], i);
  }
  for (int n = last; n >= 0; --n) {
    for (const auto& [node, i] : wanted) {
      if (node == n) results[i] = gradients[wrt[i].slot_];
    }
    if (recorded) {
      const Node node = nodes_[n];  // what is recorded on the way may move nodes_
      RunNode(node, gradients, needed, recorded);
    } else {
      RunNode(nodes_[n], gradients, needed, recorded);
    }
    if (!recorded && !retain) {
      nodes_[n].vjp = [](VjpContext&) { MNEMO_CHECK(false, "this tape was released"); };
      for (Var& var : nodes_[n].inputs) var = DropValue(var);
      for (Var& var : nodes_[n].outputs) var = DropValue(var);
    }
  }
  for (size_t i = 0; i < wrt.size(); ++i) {
    if (node_of_slot_[wrt[i].slot_] < 0) results[i] = gradients[wrt[i].slot_];
  }
  return results;
}

std::vector<Tensor> Tape::Gradient(std::span<const Var> outputs,
                                   std::span<const Tensor> output_gradients,
                                   std::span<const Var> wrt, bool retain) {
  const std::vector<Var> seeds(output_gradients.begin(), output_gradients.end());
  std::vector<Tensor> results;
  for (const Var& var : Run(outputs, seeds, wrt, false, retain)) results.push_back(var.value());
  return results;
}

std::vector<Var> Tape::GradientRecorded(std::span<const Var> outputs,
                                        std::span<const Var> output_gradients,
                                        std::span<const Var> wrt) {
  return Run(outputs, output_gradients, wrt, true, true);
}

std::vector<Var> Rematerialized(const Body& body, std::span<const Var> inputs) {
  std::vector<Var> constants;
  for (const Var& input : inputs) constants.push_back(input.Detach());
  std::vector<Tensor> outputs;
  for (const Var& output : body(constants)) outputs.push_back(output.value());
  return Tape::Record(Primitive::kRematerialized, inputs, std::move(outputs), {.inputs = kSaveAll},
                      [body, count = inputs.size()](VjpContext& context) {
                        Tape tape;
                        std::vector<Var> again, wrt;
                        for (size_t i = 0; i < count; ++i) {
                          const Var& input = context.input(i);
                          MNEMO_CHECK(!input.tracked(),
                                      "the gradient of a rematerialized body is not recordable");
                          const Tensor& sum = context.gradient_sum(i);
                          again.push_back(!context.needs(i) ? input
                                          : sum.defined()   ? tape.Leaf(input.value(), sum)
                                                            : tape.Leaf(input.value()));
                          if (context.needs(i)) wrt.push_back(again.back());
                        }
                        const std::vector<Var> outputs = body(again);
                        std::vector<Tensor> seeds;
                        for (size_t i = 0; i < outputs.size(); ++i) {
                          seeds.push_back(context.has_grad(i) ? context.grad(i).value() : Tensor());
                        }
                        const std::vector<Tensor> gradients = tape.Gradient(outputs, seeds, wrt);
                        for (size_t i = 0, k = 0; i < count; ++i) {
                          if (context.needs(i)) context.Set(i, Var(gradients[k++]));
                        }
                      });
}

}  // namespace mnemo
