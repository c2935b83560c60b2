// The waist between tensors and devices: the kernels every device must provide.
//
// A device may run kernels behind the caller's back, in the order of the calls: whatever hands
// values to the host (CopyToHost, SquaredNorms) waits for them.
//
// Kernels work on views (any strides, stride 0 for broadcast dims) and write into outputs that the
// caller has allocated; an output never overlaps an input unless it is the very same view, which
// elementwise kernels allow. Inputs of one call share a dtype unless said otherwise. bf16 is
// computed in f32 and rounded once, to nearest even, on the way out. The caller (ops.cc) has
// checked shapes, so kernels only MNEMO_CHECK what they assume. Results are a pure function of the
// inputs' values, shapes and dtype: never of timing, of the number of threads or of memory
// addresses.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/core/kernel_types.h"
#include "src/core/tensor.h"

namespace mnemo {

struct MemoryUse {
  int64_t current_bytes = 0;  // held by live tensors
  int64_t peak_bytes = 0;     // the most since the last reset
};

// Copies to the host that run beside kernels.
class HostCopies {
 public:
  virtual ~HostCopies() = default;  // waits
  // Returns when they are done; thread-safe. Throws TensorError if one has failed.
  virtual void Wait() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  // The backend of a device; throws TensorError where the build or machine has no such device.
  static Backend& For(Device device);

  virtual std::shared_ptr<Storage> Allocate(int64_t bytes) = 0;
  virtual void CopyToHost(const Tensor& x, void* host) = 0;            // x contiguous
  virtual void CopyFromHost(const void* host, const Tensor& out) = 0;  // out contiguous
  // Memory of the host that this device copies to fastest and without the caller's waiting:
  // page-locked, for a GPU, or, if none can be had, after a warning, like any other.
  virtual std::shared_ptr<Storage> AllocateOnHost(int64_t bytes);
  // Copies every one of `values`, contiguous, into that of `hosts`, which lie in such memory and
  // are as large. Each value is read after the kernels called before and beside those called later:
  // until Wait() returns, nothing may write the values or read the copies. Null: it is done.
  virtual std::unique_ptr<HostCopies> StartCopiesToHost(std::span<const Tensor> values,
                                                        std::span<const Tensor> hosts);
  virtual MemoryUse Memory() const = 0;
  virtual void ResetPeakMemory() = 0;

  virtual void Fill(const Tensor& out, double value) = 0;
  // out = x with conversion between any two dtypes; shapes equal, any strides.
  virtual void Copy(const Tensor& x, const Tensor& out) = 0;
  virtual void Unary(UnaryOp op, const Tensor& x, const Tensor& out) = 0;
  virtual void Affine(const Tensor& x, double scale, double shift, const Tensor& out) = 0;
  // a, b and out have the same shape (broadcasting through stride 0 has been done). For kAdd, b may
  // be bf16 where a and out are f32: how narrow gradients are added up.
  virtual void Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) = 0;
  // out = mask > 0 ? a : b; all of one shape, mask of the same dtype as a and b.
  virtual void Where(const Tensor& mask, const Tensor& a, const Tensor& b, const Tensor& out) = 0;
  // out has x's rank; a dim of size 1 in out where x is larger is reduced. Sums of f32 accumulate
  // in f32 over blocks of at most 128 elements and in f64 above; of f64 in f64, pairwise or better.
  virtual void Reduce(ReduceOp op, const Tensor& x, const Tensor& out) = 0;

  // out = alpha a b + beta c. a [..., m, k], b [..., k, n], out [..., m, n]; equal leading dims
  // (any strides, 0 included, but for out). Any strides in the matrix dims; a unit stride in one of
  // the two avoids a copy. c has out's shape and dtype, and is out itself or apart from it; beta ==
  // 0 never reads it. Products of bf16 are summed in f32, and out may then be f32 too; a product
  // may be rounded to bf16 before a c of bf16 is added.
  virtual void Gemm(const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& c,
                    const Tensor& out) = 0;
  // out = alpha a b + beta out.
  void Gemm(const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& out) {
    Gemm(a, b, alpha, beta, out, out);
  }

  // First-order recurrence along axis -2 of [..., T, C]: forward out_t = a_t out_{t-1} + b_t,
  // reverse out_t = a_t out_{t+1} + b_t, starting from zero. a, b, out of one shape (a may be
  // broadcast through stride 0).
  virtual void LinearScan(const Tensor& a, const Tensor& b, bool reverse, const Tensor& out) = 0;
  // Along the last dim. A row whose every entry is -infinity becomes zeros.
  virtual void Softmax(const Tensor& x, const Tensor& out) = 0;

  // Causal depthwise convolution over a row axis that the caller has extended: x [B, T + K - 1, D],
  // weight [D, K], out [B, T, D]: out_t = sum_j weight[:, j] x_{t + j}.
  virtual void DepthwiseConv(const Tensor& x, const Tensor& weight, const Tensor& out) = 0;
  // out [D, K]: out[:, j] = sum over B and T of grad_t x_{t + j}. Shapes as above.
  virtual void DepthwiseConvWeightGrad(const Tensor& x, const Tensor& grad, const Tensor& out) = 0;

  // out [N, D] = table [V, D] at ids [N] (i32, contiguous, each in [0, V), checked by the caller).
  virtual void GatherRows(const Tensor& table, const Tensor& ids, const Tensor& out) = 0;
  // out [V, D] = zeros plus rows [N, D] added at ids [N], in order of n: deterministic.
  virtual void ScatterAddRows(const Tensor& rows, const Tensor& ids, const Tensor& out) = 0;
  // out [N, 1] = x [N, C] at column ids [N]; 0 where an id is outside [0, C).
  virtual void PickColumns(const Tensor& x, const Tensor& ids, const Tensor& out) = 0;
  // out [N, C] = zeros with values [N, 1] at column ids [N]; ids outside [0, C) write nothing.
  virtual void PlaceColumns(const Tensor& values, const Tensor& ids, const Tensor& out) = 0;

  // Optimizer and checks, over contiguous buffers of one length.
  virtual void AdamW(const AdamWStep& step, const Tensor& gradient, const Tensor& parameter,
                     const Tensor& first_moment, const Tensor& second_moment) = 0;
  // Each tensor's sum of squares, in f64; infinite or NaN if any of its values is. Waits for the
  // device once, however many tensors there are.
  virtual std::vector<double> SquaredNorms(std::span<const Tensor> tensors) = 0;
};

// The CPU backend: f32 and f64 arithmetic, matrix products on tiles of its own (thin ones
// through BLAS), loops over ParallelFor.
Backend& CpuBackend();

// The backend of GPU `index`; throws TensorError if there is none. A build without CUDA links a
// stub that always throws.
Backend& CudaBackend(int index);

}  // namespace mnemo
