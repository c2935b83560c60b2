// Fused ops: an operation that a device may have a kernel of its own for.
//
// Each is born with its composed definition, a function of Vars written in primitives. That is its
// meaning, its documentation, its oracle in tests and its path on a device without a kernel. Where
// a kernel is registered for a device and accepts the inputs it runs instead, with the derivative
// that comes with it. `execution.fused: false` forces the composition everywhere, which bisects a
// discrepancy in one run; `execution.strict_fused` makes a refusal by the kernel an error.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/core/tape.h"
#include "src/core/trace_range.h"

namespace mnemo {

struct FusedPolicy {
  bool enabled = true;  // false: always the composition
  bool strict = false;  // true: a fallback throws TensorError(FailedPrecondition)
  // False lets kernels add up in any order where that is faster: runs then differ in the last bits.
  bool deterministic = true;
};
// Process-wide; set once, before the first step.
void SetFusedPolicy(FusedPolicy policy);
FusedPolicy GetFusedPolicy();

// While it lives, a backward pass follows at once on what fused ops of the calling thread save, and
// only one: they may save much, so that nothing is computed again, and overwrite it.
class BackwardFollows {
 public:
  BackwardFollows();
  ~BackwardFollows();
  BackwardFollows(const BackwardFollows&) = delete;
  BackwardFollows& operator=(const BackwardFollows&) = delete;
  static bool Now();

 private:
  bool before_;
};

struct FusedCount {
  int64_t kernel = 0;    // calls served by a kernel
  int64_t composed = 0;  // calls composed because the device has no kernel, or fused is off
  int64_t fallback = 0;  // calls that a registered kernel refused
};
// Counts by op name since the start. Thread-safe.
std::map<std::string, FusedCount> FusedCounts();

class FusedOpBase {
 public:
  const std::string& name() const { return name_; }
  // Every fused op linked into the program.
  static std::vector<const FusedOpBase*> All();

 protected:
  explicit FusedOpBase(std::string name);
  FusedOpBase(const FusedOpBase&) = delete;
  // Counts the call; true if the kernel is to run. Throws under a strict policy.
  bool Decide(bool has_kernel, bool accepts) const;
  const std::string& backward_name() const { return backward_name_; }

 private:
  friend std::map<std::string, FusedCount> FusedCounts();
  std::string name_, backward_name_;
  mutable std::atomic<int64_t> kernel_{0}, composed_{0}, fallback_{0};
};

// Attributes: whatever is not a tensor. A global object per op, which outlives all tapes; kernels
// are registered at start.
template <typename Attributes>
class FusedOp : public FusedOpBase {
 public:
  using Composed = std::vector<Var> (*)(std::span<const Var>, const Attributes&);
  struct Kernel {
    std::function<bool(std::span<const Tensor> inputs, const Attributes&)> accepts;
    // Returns the outputs; appends to `saved` what backward needs beyond the inputs, if `saved` is
    // not null (null: no derivative will be asked for).
    std::function<std::vector<Tensor>(std::span<const Tensor> inputs, const Attributes&,
                                      std::vector<Tensor>* saved)>
        forward;
    // Gradients of the inputs, undefined where not needed, in the input's dtype or, for bf16, in
    // f32 where that is what was computed. Output gradients are never undefined.
    std::function<std::vector<Tensor>(
        std::span<const Tensor> inputs, const Attributes&, std::span<const Tensor> saved,
        std::span<const Tensor> output_gradients, const std::vector<bool>& needs)>
        backward;
    // In place of backward, for a kernel that can add: each gradient is to include what has flowed
    // into its input so far, so_far[i], of the input's shape and dtype; undefined: nothing.
    std::function<std::vector<Tensor>(
        std::span<const Tensor> inputs, const Attributes&, std::span<const Tensor> saved,
        std::span<const Tensor> output_gradients, const std::vector<bool>& needs,
        std::span<const Tensor> so_far)>
        backward_onto = nullptr;
  };

  FusedOp(std::string name, Composed composed)
      : FusedOpBase(std::move(name)), composed_(composed) {}

  void Register(DeviceType device, Kernel kernel) {
    kernels_[device] = std::make_shared<const Kernel>(std::move(kernel));
  }
  void Unregister(DeviceType device) { kernels_.erase(device); }

  std::vector<Var> Compose(std::span<const Var> inputs, const Attributes& attributes) const {
    return composed_(inputs, attributes);
  }

  std::vector<Var> operator()(std::span<const Var> inputs, const Attributes& attributes) const {
    const TraceRange range(name().c_str());
    const auto found = kernels_.find(inputs[0].device().type);
    if (found == kernels_.end()) {
      Decide(false, false);
      return composed_(inputs, attributes);
    }
    std::vector<Tensor> values;
    bool tracked = false;
    for (const Var& input : inputs) {
      values.push_back(input.value());
      tracked = tracked || input.tracked();
    }
    const std::shared_ptr<const Kernel> kernel = found->second;
    if (!Decide(true, kernel->accepts(values, attributes))) return composed_(inputs, attributes);
    std::vector<Tensor> saved;
    std::vector<Tensor> outputs = kernel->forward(values, attributes, tracked ? &saved : nullptr);
    return Tape::Record(
        Primitive::kFused, inputs, std::move(outputs), {.inputs = kSaveAll},
        [this, kernel, attributes, saved, count = inputs.size()](VjpContext& context) {
          const TraceRange range(backward_name().c_str());
          Backward(*kernel, attributes, saved, count, context);
        });
  }

 private:
  static void Backward(const Kernel& kernel, const Attributes& attributes,
                       const std::vector<Tensor>& saved, size_t count, VjpContext& context) {
    std::vector<Tensor> values, gradients, so_far;
    std::vector<bool> needs;
    for (size_t i = 0; i < count; ++i) {
      const int k = static_cast<int>(i);
      Require(!context.input(k).tracked(), "the gradient of a fused kernel is not recordable");
      values.push_back(context.input(k).value());
      needs.push_back(context.needs(k));
      so_far.push_back(context.so_far(k));
    }
    for (int i = 0; i < context.output_count(); ++i) gradients.push_back(context.grad(i).value());
    const bool adds = kernel.backward_onto != nullptr;
    const std::vector<Tensor> results =
        adds ? kernel.backward_onto(values, attributes, saved, gradients, needs, so_far)
             : kernel.backward(values, attributes, saved, gradients, needs);
    for (size_t i = 0; i < count; ++i) {
      if (!needs[i]) continue;
      const int k = static_cast<int>(i);
      if (adds && so_far[i].defined()) {
        context.SetTotal(k, results[i]);
        continue;
      }
      const Tensor& sum = context.gradient_sum(k);
      const bool kept = sum.defined() && sum.dtype() == results[i].dtype();
      context.Set(k, Var(kept ? results[i] : results[i].To(values[i].dtype())));
    }
  }

  Composed composed_;
  std::map<DeviceType, std::shared_ptr<const Kernel>> kernels_;
};

}  // namespace mnemo
