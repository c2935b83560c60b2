// The kernels behind CudaDevice: what backend.h says of each, on views of one GPU's memory.
//
// Every function puts its work on launch.stream and returns. Callers have checked shapes and
// dtypes. Floating point dtypes are f32, f64 and bf16; bf16 is computed in f32. Results do not
// depend on timing: no atomics on floating point values.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "src/core/cuda/view.h"
#include "src/core/kernel_types.h"

namespace mnemo::cuda {

// Memory that a kernel needs for itself.
class Scratch {
 public:
  virtual ~Scratch() = default;
  // Device memory, 256-byte aligned, for work that is put on the stream before the Scratch ends.
  virtual void* Take(int64_t bytes) = 0;
};

struct Launch {
  cudaStream_t stream;
  Scratch& scratch;
  int multiprocessors;
};

// copy.cu
void Fill(const Launch& launch, const View& out, double value);
void Copy(const Launch& launch, const View& x, const View& out);  // converts
// elementwise.cu
void Affine(const Launch& launch, const View& x, double scale, double shift, const View& out);
void Where(const Launch& launch, const View& mask, const View& a, const View& b, const View& out);
void Binary(const Launch& launch, BinaryOp op, const View& a, const View& b, const View& out);
// unary.cu
void Unary(const Launch& launch, UnaryOp op, const View& x, const View& out);

// reduce.cu
void Reduce(const Launch& launch, ReduceOp op, const View& x, const View& out);
// squared_norms.cu
// norms[i] = sum of squares of the i-th of `count` contiguous arrays, in f64 on the device; all of
// one dtype. `data` and `elements` are host arrays, read before the call returns.
void SquaredNorms(const Launch& launch, DType dtype, int count, const void* const* data,
                  const int64_t* elements, double* norms);

// softmax.cu
void Softmax(const Launch& launch, const View& x, const View& out);
// scan.cu
void LinearScan(const Launch& launch, const View& a, const View& b, bool reverse, const View& out);
// conv.cu
void DepthwiseConv(const Launch& launch, const View& x, const View& weight, const View& out);
void DepthwiseConvWeightGrad(const Launch& launch, const View& x, const View& grad,
                             const View& out);
// gather.cu
void GatherRows(const Launch& launch, const View& table, const View& ids, const View& out);
void ScatterAddRows(const Launch& launch, const View& rows, const View& ids, const View& out);
void PickColumns(const Launch& launch, const View& x, const View& ids, const View& out);
void PlaceColumns(const Launch& launch, const View& values, const View& ids, const View& out);
// optimizer.cu
void AdamW(const Launch& launch, const AdamWStep& step, const View& gradient, const View& parameter,
           const View& first_moment, const View& second_moment);

}  // namespace mnemo::cuda
