// What the parts of BenchModelOps (op_bench.h) share.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "src/core/tape.h"
#include "src/job/op_bench.h"

namespace mnemo {

// What rows of activations are stored as in training, and gradients of weights.
inline constexpr DType kRows = DType::kBF16, kSums = DType::kF32;

inline double Count(const Tensor& x) { return static_cast<double>(x.elements()); }

// FLOP and bytes of a call.
struct OpWork {
  double flops = 0, bytes = 0;
};

// The bytes of tensors that are read or written once each.
double BytesOf(const std::vector<Tensor>& tensors);

class OpTimer {
 public:
  OpTimer(Device device, std::string model, const ReportOp& report);

  Device device() const { return device_; }
  // Normal values; a million different ones at most, repeated, so that even GiB of them are made at
  // once.
  Tensor Random(const Shape& shape, DType dtype, double deviation = 1);
  Tensor Empty(const Shape& shape, DType dtype) const;

  void Primitive(const std::string& name, const Shape& shape, const OpWork& work,
                 const std::function<void()>& call);
  void Product(const std::string& name, const std::string& shapes, const OpWork& work,
               const std::function<void()>& call);

  struct Input {
    Tensor value;
    bool weight = false;  // its gradient is added to an f32 sum
  };
  // Times `call` on leaves of a tape, as in training, and the gradients of all of them.
  using FusedCall = std::function<Var(std::span<const Var>)>;
  void Fused(const std::string& name, const std::string& shapes, const std::vector<Input>& inputs,
             const OpWork& forward, const OpWork& backward, const FusedCall& call);
  // The same in one: the call, and then at once its gradients (BackwardFollows).
  void FusedAtOnce(const std::string& name, const std::string& shapes,
                   const std::vector<Input>& inputs, const OpWork& work, const FusedCall& call);
  // One that computes gradients in one call with the result.
  void FusedWithGradients(const std::string& name, const std::string& shapes, const OpWork& work,
                          const std::function<void()>& call);

 private:
  std::vector<Tensor> SumsOf(const std::vector<Input>& inputs) const;
  Tensor GradientLike(const Tensor& x);
  void Time(OpTime op, const OpWork& work, const std::function<void()>& call);

  Device device_;
  std::string model_;
  const ReportOp& report_;
  std::map<DType, Tensor> values_;  // what Random repeats
};

// The parts.
void BenchModelPrimitives(const ModelOpShapes& shapes, OpTimer& timer);
void BenchModelProducts(const ModelOpShapes& shapes, OpTimer& timer);
void BenchFusedOps(const ModelOpShapes& shapes, OpTimer& timer);

}  // namespace mnemo
