#include "src/core/counting_backend.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "src/core/arena.h"
#include "src/core/counted/counted_kernels.h"
#include "src/core/cpu/caching_allocator.h"
#include "src/core/cpu/widening_backend.h"
#include "src/core/cuda/gemm_layout.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

// Of the calling thread, so that counts of several threads do not mix.
thread_local MemoryUse use;

// Blocks of one class of the CPU's allocator.
struct ClassUse {
  int64_t now = 0, most = 0;  // in use
  int64_t bytes = 0;          // of the largest
};
thread_local std::map<int, ClassUse> classes;

// Never read or written through; not null, so that offsets may be added to it.
alignas(64) char nowhere[64];

int64_t RoundUp(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

class CountedStorage final : public Storage {
 public:
  // As much as a device holds for it may be `taken`.
  CountedStorage(int64_t bytes, int64_t taken, Device device)
      : Storage(nowhere, bytes, device), taken_(taken) {
    use.current_bytes += taken;
    use.peak_bytes = std::max(use.peak_bytes, use.current_bytes);
    ClassUse& blocks = classes[CachingAllocator::ClassOf(bytes)];
    blocks.most = std::max(blocks.most, ++blocks.now);
    blocks.bytes = std::max(blocks.bytes, bytes);
  }
  ~CountedStorage() override {
    use.current_bytes -= taken_;
    --classes[CachingAllocator::ClassOf(bytes())].now;
  }

 private:
  int64_t taken_;
};

class CountingDevice : public Backend {
 public:
  explicit CountingDevice(Device device) : device_(device) {}
  std::shared_ptr<Storage> Allocate(int64_t bytes) override {
    return std::make_shared<CountedStorage>(bytes, bytes, device_);
  }
  void CopyToHost(const Tensor& x, void* host) override { std::memset(host, 0, x.bytes()); }
  void CopyFromHost(const void*, const Tensor&) override {}
  MemoryUse Memory() const override { return use; }
  void ResetPeakMemory() override { use.peak_bytes = use.current_bytes; }

  void Fill(const Tensor&, double) override {}
  void Copy(const Tensor&, const Tensor&) override {}
  void Unary(UnaryOp, const Tensor&, const Tensor&) override {}
  void Affine(const Tensor&, double, double, const Tensor&) override {}
  void Binary(BinaryOp, const Tensor&, const Tensor&, const Tensor&) override {}
  void Where(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void Reduce(ReduceOp, const Tensor&, const Tensor&) override {}
  void Gemm(const Tensor&, const Tensor&, double, double, const Tensor&, const Tensor&) override {}
  void LinearScan(const Tensor&, const Tensor&, bool, const Tensor&) override {}
  void Softmax(const Tensor&, const Tensor&) override {}
  void DepthwiseConv(const Tensor&, const Tensor&, const Tensor&) override {}
  void DepthwiseConvWeightGrad(const Tensor&, const Tensor&, const Tensor&) override {}
  void GatherRows(const Tensor&, const Tensor&, const Tensor&) override {}
  void ScatterAddRows(const Tensor&, const Tensor&, const Tensor&) override {}
  void PickColumns(const Tensor&, const Tensor&, const Tensor&) override {}
  void PlaceColumns(const Tensor&, const Tensor&, const Tensor&) override {}
  void AdamW(const AdamWStep&, const Tensor&, const Tensor&, const Tensor&,
             const Tensor&) override {}
  std::vector<double> SquaredNorms(std::span<const Tensor> tensors) override {
    return std::vector<double>(tensors.size());
  }

 private:
  Device device_;
};

// As kernels of a GPU see it.
cuda::View ViewOf(const Tensor& x) {
  cuda::View view;
  view.dtype = x.dtype();
  view.rank = x.rank();
  for (int axis = 0; axis < view.rank; ++axis) {
    view.shape[axis] = x.shape()[axis];
    view.strides[axis] = x.strides()[axis];
  }
  return view;
}

// Pieces of an arena, and of the kernels' scratch what grows with their operands.
class CountingGpu final : public CountingDevice {
 public:
  CountingGpu() : CountingDevice(kCountingGpu) { RegisterCountedKernels(); }

  std::shared_ptr<Storage> Allocate(int64_t bytes) override {
    const int64_t taken = RoundUp(std::max<int64_t>(1, bytes), Arena::kGranule);
    return std::make_shared<CountedStorage>(bytes, taken, kCountingGpu);
  }

  void Gemm(const Tensor& a, const Tensor& b, double, double, const Tensor&,
            const Tensor& out) override {
    if (out.elements() == 0 || a.dim(-1) == 0) return;
    CountedScratch scratch(kCountingGpu);
    for (const int64_t bytes : cuda::ProductScratch(ViewOf(a), ViewOf(b), ViewOf(out))) {
      scratch.Take(bytes);
    }
  }

  // Ids in order, and where each begins (cuda/gather.cu).
  void ScatterAddRows(const Tensor&, const Tensor& ids, const Tensor& out) override {
    CountedScratch scratch(kCountingGpu);
    for (int i = 0; i < 4; ++i) scratch.Take(ids.bytes());
    scratch.Take(out.dim(0) * SizeOf(DType::kI32));
  }
};

}  // namespace

Backend& CountingBackend(Device device) {
  static CountingGpu* gpu = new CountingGpu;
  static CountingDevice* plain = new CountingDevice(kCountingDevice);
  static WideningBackend* cpu = new WideningBackend(*new CountingDevice(kCountingCpu));
  if (device == kCountingGpu) return *gpu;
  return device == kCountingCpu ? static_cast<Backend&>(*cpu) : *plain;
}

int64_t CountedHeldBytes() {
  int64_t held = 0;
  for (const auto& [size_class, blocks] : classes) held += blocks.most * blocks.bytes;
  return held;
}

void ResetCountedHeldBytes() {
  std::erase_if(classes, [](const auto& entry) { return entry.second.now == 0; });
  for (auto& [size_class, blocks] : classes) blocks.most = blocks.now;
}

}  // namespace mnemo
