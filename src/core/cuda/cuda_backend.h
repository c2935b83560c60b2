// One GPU: see backend.h for what each kernel does.
//
// All work of a device goes to one stream, in the order of the calls, so that memory freed by the
// host may be handed out again at once. Calls of several threads are safe as on the CPU, and their
// kernels then run one after the other. Nothing here waits for the device but what hands values to
// the host.
#pragma once

#include <memory>
#include <vector>

#include "src/core/arena.h"
#include "src/core/backend.h"
#include "src/core/cuda/gemm.h"
#include "src/core/cuda/kernels.h"
#include "src/core/cuda/pinned_ring.h"

namespace mnemo {

class CudaDevice final : public Backend {
 public:
  // Throws TensorError where there is no such GPU, its architecture is not compiled in, or the
  // driver is too old: what is there, what is needed, what to do.
  explicit CudaDevice(int index);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;

  std::shared_ptr<Storage> Allocate(int64_t bytes) override;
  void CopyToHost(const Tensor& x, void* host) override;
  void CopyFromHost(const void* host, const Tensor& out) override;
  std::shared_ptr<Storage> AllocateOnHost(int64_t bytes) override;
  std::unique_ptr<HostCopies> StartCopiesToHost(std::span<const Tensor> values,
                                                std::span<const Tensor> hosts) override;
  MemoryUse Memory() const override;
  void ResetPeakMemory() override;

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

  // For kernels of fused ops, through CudaScratch: the device's stream, one as urgent for work
  // beside it, and one for work that fills what both leave idle. Whoever uses a side stream lets it
  // wait for stream() first and stream() for it in the end.
  cudaStream_t stream() const { return stream_; }
  cudaStream_t stream_beside() const { return beside_; }
  cudaStream_t stream_behind() const { return behind_; }
  int index() const { return index_; }
  int multiprocessors() const { return multiprocessors_; }

  // Where tensors and scratch lie. Reserve() before the first step makes it one block, so that no
  // step waits for the driver.
  Arena& arena() { return *arena_; }

  // Makes this the calling thread's GPU: before any call of the CUDA runtime.
  void Use() const;

 private:
  const int index_;
  int multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr, beside_ = nullptr, behind_ = nullptr;
  cudaStream_t copies_ = nullptr;  // to the host, beside kernels
  void* workspace_ = nullptr;      // of products; not the arena's
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<cuda::PinnedRing> ring_;
  std::unique_ptr<cuda::MatrixProducts> products_;
};

// x as kernels see it. Throws TensorError above rank cuda::kMaxRank.
cuda::View ViewOf(const Tensor& x);

// Launches on a device, with scratch memory that is given back to the arena at the end: later work
// of the stream may then use it. Makes the device the calling thread's.
class CudaScratch {
 public:
  explicit CudaScratch(CudaDevice& device);
  CudaScratch(const CudaScratch&) = delete;

  cuda::Launch launch() const { return {device_.stream(), pieces_, device_.multiprocessors()}; }

 private:
  class Pieces final : public cuda::Scratch {
   public:
    explicit Pieces(Arena& arena) : arena_(arena) {}
    ~Pieces() override;
    void* Take(int64_t bytes) override;

   private:
    Arena& arena_;
    std::vector<int64_t> places_;
  };

  CudaDevice& device_;
  mutable Pieces pieces_;
};

}  // namespace mnemo
