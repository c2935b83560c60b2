// One GPU: see backend.h for what each kernel does.
//
// All work of a device goes to one stream, in the order of the calls, so that memory freed by the
// host may be handed out again at once. Calls of several threads are safe as on the CPU, and their
// kernels then run one after the other. Nothing here waits for the device but what hands values to
// the host.
#pragma once

#include <memory>
#include <mutex>

#include "src/core/arena.h"
#include "src/core/backend.h"
#include "src/core/cuda/gemm.h"
#include "src/core/cuda/kernels.h"

namespace mnemo {

class CudaDevice final : public Backend {
 public:
  // Throws TensorError where there is no such GPU, its architecture is not compiled in, or the
  // driver is too old: what is there, what is needed, what to do.
  explicit CudaDevice(int index);
  ~CudaDevice() override;

  std::shared_ptr<Storage> Allocate(int64_t bytes) override;
  void CopyToHost(const Tensor& x, void* host) override;
  void CopyFromHost(const void* host, const Tensor& out) override;
  MemoryUse Memory() const override;
  void ResetPeakMemory() override;

  void Fill(const Tensor& out, double value) override;
  void Copy(const Tensor& x, const Tensor& out) override;
  void Unary(UnaryOp op, const Tensor& x, const Tensor& out) override;
  void Affine(const Tensor& x, double scale, double shift, const Tensor& out) override;
  void Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) override;
  void Where(const Tensor& mask, const Tensor& a, const Tensor& b, const Tensor& out) override;
  void Reduce(ReduceOp op, const Tensor& x, const Tensor& out) override;
  void Gemm(const Tensor& a, const Tensor& b, double alpha, double beta,
            const Tensor& out) override;
  void LinearScan(const Tensor& a, const Tensor& b, bool reverse, const Tensor& out) override;
  void Softmax(const Tensor& x, const Tensor& out) override;
  void DepthwiseConv(const Tensor& x, const Tensor& weight, const Tensor& out) override;
  void DepthwiseConvWeightGrad(const Tensor& x, const Tensor& grad, const Tensor& out) override;
  void GatherRows(const Tensor& table, const Tensor& ids, const Tensor& out) override;
  void ScatterAddRows(const Tensor& rows, const Tensor& ids, const Tensor& out) override;
  void PickColumns(const Tensor& x, const Tensor& ids, const Tensor& out) override;
  void PlaceColumns(const Tensor& values, const Tensor& ids, const Tensor& out) override;
  void AdamW(const AdamWStep& step, const Tensor& gradient, const Tensor& parameter,
             const Tensor& first_moment, const Tensor& second_moment) override;
  std::vector<double> SquaredNorms(std::span<const Tensor> tensors) override;

  // For kernels of fused ops: the device's stream, with scratch memory of its arena.
  cudaStream_t stream() const { return stream_; }
  int index() const { return index_; }
  int multiprocessors() const { return multiprocessors_; }
};

}  // namespace mnemo
