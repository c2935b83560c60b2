// Reverse-mode derivatives.
//
// A Tape records the primitives applied to the Vars that are tracked on it and differentiates them
// in reverse. It lives within one unit of work (one block call): what crosses units is passed
// explicitly, as values and gradients. Derivatives are themselves written in primitives, so they
// serve every device, and can be recorded and differentiated again.
//
// A Tape and its Vars belong to one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "src/core/primitives.h"
#include "src/core/tensor.h"

namespace mnemo {

class Tape;

// A tensor, and its place on a tape if it is tracked. A Var made from a Tensor is a constant.
class Var {
 public:
  Var() = default;
  Var(Tensor value) : value_(std::move(value)) {}  // NOLINT: constants convert

  const Tensor& value() const { return value_; }
  bool defined() const { return value_.defined(); }
  bool tracked() const { return tape_ != nullptr; }
  const Shape& shape() const { return value_.shape(); }
  int64_t dim(int axis) const { return value_.dim(axis); }
  int rank() const { return value_.rank(); }
  DType dtype() const { return value_.dtype(); }
  Device device() const { return value_.device(); }
  Var Detach() const { return Var(value_); }

 private:
  friend class Tape;
  Tensor value_;
  Tape* tape_ = nullptr;
  int slot_ = -1;
};

// What a derivative rule sees: the inputs and outputs that the primitive asked to save, and the
// gradients of its outputs. It sets the gradient of each input that needs one.
class VjpContext {
 public:
  const Var& input(int i) const { return inputs_[i]; }
  const Var& output(int i) const { return outputs_[i]; }
  const Shape& input_shape(int i) const { return (*input_shapes_)[i]; }
  int output_count() const { return static_cast<int>(output_shapes_->size()); }
  bool needs(int i) const { return needs_[i]; }
  // Gradient of output i; zeros of its shape where nothing flowed back.
  Var grad(int i = 0) const;
  bool has_grad(int i) const { return grads_[i].defined(); }
  // What has flowed into input i so far, or where a leaf's gradient is added up (Tape::Leaf), in a
  // view of its shape; or undefined. A rule may add to it and not Set, so that what it computes is
  // never stored by itself, or Set a gradient in the sum's dtype.
  const Tensor& gradient_sum(int i) const { return gradient_sums_[i]; }
  void Set(int i, Var gradient) { results_[i] = std::move(gradient); }
  // What has flowed into input i so far, for a rule that can add its own share while it computes
  // it: the sum then goes into SetTotal. Undefined if nothing has, or if the rule must Set.
  const Tensor& so_far(int i) const { return so_far_[i]; }
  void SetTotal(int i, Tensor total) { totals_[i] = std::move(total); }

 private:
  friend class Tape;
  std::vector<Var> inputs_, outputs_, grads_, results_;
  const std::vector<Shape>* input_shapes_ = nullptr;
  const std::vector<Shape>* output_shapes_ = nullptr;
  const std::vector<DType>* output_types_ = nullptr;
  std::vector<bool> needs_;
  std::vector<Tensor> gradient_sums_, so_far_, totals_;
  Device device_;
};
using Vjp = std::function<void(VjpContext&)>;

// Which values a derivative rule reads, as bit masks over inputs and outputs; the rest is not kept.
struct Saves {
  uint32_t inputs = 0;
  uint32_t outputs = 0;
};
inline constexpr uint32_t kSaveAll = ~0u;

class Tape {
 public:
  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // A tracked Var with this value, whose gradient can be asked for.
  Var Leaf(Tensor value);
  // The same, but its gradient is added to `sum` as it comes instead of being returned: Gradient()
  // gives an undefined tensor for it, and no gradient of this tape can be recorded. `sum` has the
  // value's shape, and its dtype or, for bf16, f32. Products add to it without rounding in between.
  Var Leaf(Tensor value, Tensor sum);

  // Gradients of sum_i <outputs_i, output_gradients_i> with respect to `wrt`; undefined where
  // nothing depends on it. An undefined output gradient counts as zero, an untracked output is
  // skipped. What the tape saved is released on the way unless `retain` is set. The results may
  // share storage with each other and with the output gradients.
  std::vector<Tensor> Gradient(std::span<const Var> outputs,
                               std::span<const Tensor> output_gradients, std::span<const Var> wrt,
                               bool retain = false);
  // The same with the derivative recorded on this tape, to be differentiated again.
  std::vector<Var> GradientRecorded(std::span<const Var> outputs,
                                    std::span<const Var> output_gradients,
                                    std::span<const Var> wrt);

  // Called by primitives. Returns the outputs as Vars: tracked if any input is (all tracked inputs
  // must be on one tape), else constants.
  static std::vector<Var> Record(Primitive primitive, std::span<const Var> inputs,
                                 std::vector<Tensor> outputs, Saves saves, Vjp vjp);

  // Called by primitives that only look at their input x in another way: what flows back to `view`
  // is added to x's gradient sum, if it has one, seen as `look` shows it. An undefined look does
  // nothing.
  static void ShareGradientSum(const Var& x, const Var& view,
                               const std::function<Tensor(const Tensor&)>& look);

  int64_t size() const { return static_cast<int64_t>(nodes_.size()); }

 private:
  struct Node {
    Primitive primitive;
    std::vector<Var> inputs;  // values dropped where not saved; slots stay
    std::vector<Var> outputs;
    std::vector<Shape> input_shapes, output_shapes;
    std::vector<DType> input_types, output_types;
    Device device;
    int first_slot;
    Vjp vjp;
  };

  std::vector<Var> Run(std::span<const Var> outputs, std::span<const Var> output_gradients,
                       std::span<const Var> wrt, bool recorded, bool retain);
  // Which slots are, or were computed from, one of `wrt`: only these need gradients.
  std::vector<bool> DependingOn(std::span<const Var> wrt) const;
  void RunNode(const Node& node, std::vector<Var>& gradients, const std::vector<bool>& needed,
               bool recorded);
  // What a rule is told about the sums that its gradients go into.
  void OfferSums(const Node& node, const std::vector<Var>& gradients, VjpContext& context) const;
  void Accumulate(int slot, Var gradient, std::vector<Var>& gradients, bool recorded) const;
  Var DropValue(const Var& var) const;

  std::vector<Node> nodes_;
  std::vector<int> node_of_slot_;        // -1 for leaves
  std::map<int, Tensor> gradient_sums_;  // by slot, of some leaves and of views of them
};

// Runs `body` without keeping its intermediate values: they are computed again when the gradient
// is asked for. `body` must be a pure function of its arguments; tensors that it captures are
// constants to it. Its gradient cannot be recorded.
using Body = std::function<std::vector<Var>(std::span<const Var>)>;
std::vector<Var> Rematerialized(const Body& body, std::span<const Var> inputs);

}  // namespace mnemo
