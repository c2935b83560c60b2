// bf16 for a device that computes in f32: what a kernel reads is widened, the device's f32 kernel
// runs, and what it wrote is rounded to nearest even when it is stored. Each kernel rounds once, as
// those of a device with bf16 arithmetic do, so that the CPU can check such a device. Every call
// takes copies: it is slow, and meant to be plain.
#pragma once

#include "src/core/backend.h"

namespace mnemo {

// Calls without bf16 go straight through. Thread-safe if `wide` is.
class WideningBackend final : public Backend {
 public:
  // `wide` outlives it, converts bf16 in Copy and Fill, and computes f32 and f64.
  explicit WideningBackend(Backend& wide) : wide_(wide) {}

  std::shared_ptr<Storage> Allocate(int64_t bytes) override { return wide_.Allocate(bytes); }
  void CopyToHost(const Tensor& x, void* host) override { wide_.CopyToHost(x, host); }
  void CopyFromHost(const void* host, const Tensor& out) override { wide_.CopyFromHost(host, out); }
  MemoryUse Memory() const override { return wide_.Memory(); }
  void ResetPeakMemory() override { wide_.ResetPeakMemory(); }

  void Fill(const Tensor& out, double value) override { wide_.Fill(out, value); }
  void Copy(const Tensor& x, const Tensor& out) override { wide_.Copy(x, out); }
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
  Backend& wide_;
};

}  // namespace mnemo
