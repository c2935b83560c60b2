// The CPU device: see backend.h for what each kernel does. Bodies are in the files of this folder.
#pragma once

#include "src/core/backend.h"
#include "src/core/cpu/caching_allocator.h"

namespace mnemo {

// Thread-safe as long as no two calls write the same tensor.
class CpuDevice final : public Backend {
 public:
  CpuDevice();

  std::shared_ptr<Storage> Allocate(int64_t bytes) override;
  void CopyToHost(const Tensor& x, void* host) override;
  void CopyFromHost(const void* host, const Tensor& out) override;
  MemoryUse Memory() const override { return allocator_.use(); }
  void ResetPeakMemory() override { allocator_.ResetPeak(); }

  void Fill(const Tensor& out, double value) override;
  void Copy(const Tensor& x, const Tensor& out) override;
  void Unary(UnaryOp op, const Tensor& x, const Tensor& out) override;
  void Affine(const Tensor& x, double scale, double shift, const Tensor& out) override;
  void Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) override;
  void Where(const Tensor& mask, const Tensor& a, const Tensor& b, const Tensor& out) override;
  void Reduce(ReduceOp op, const Tensor& x, const Tensor& out) override;
  using Backend::Gemm;
  void Gemm(const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& c,
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

 private:
  CachingAllocator allocator_;
};

}  // namespace mnemo
