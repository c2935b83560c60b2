// The fused op "gates" on a GPU: products of bf16 that lose nothing which bf16 rows have.
//
// Weights w are cut into two bf16 numbers, w = w1 + w2 within 2^-17; rows x are bf16 as they are.
// So x w^T is one product with [w1; w2], whose halves the kernel that follows adds up. In the same
// way the gradients z' of the products' sums are cut into z1 + z2:
//   grad_x = [z1 z1 z2] [w1; w2; w1],   grad_w = the sum of the halves of [z1 z2]^T x.
#pragma once

#include "src/core/cuda/gate_kernels.h"
#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {

// The kernels of gate_kernels.h on a device, or whatever stands for them.
class GateKernels {
 public:
  virtual ~GateKernels() = default;
  virtual void Split(Device device, const GateShape& shape, const GateSplitCall& call) = 0;
  virtual void Values(Device device, const GateShape& shape, const GateValuesCall& call) = 0;
  virtual void Gradients(Device device, const GateShape& shape, const GateGradientsCall& call) = 0;
  // out [columns] = sums over `rows` rows of shares.
  virtual void Sum(Device device, const float* shares, int64_t rows, int64_t columns,
                   float* out) = 0;
};

// The op's kernel for bf16 rows through `kernels`, which has to live as long as it.
FusedOp<GateAttributes>::Kernel GatesKernel(GateKernels& kernels);

void RegisterGates();

}  // namespace mnemo::cuda
