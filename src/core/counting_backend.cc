#include "src/core/counting_backend.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "src/core/cpu/caching_allocator.h"
#include "src/core/cpu/widening_backend.h"
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

class CountedStorage final : public Storage {
 public:
  CountedStorage(int64_t bytes, Device device) : Storage(nowhere, bytes, device) {
    use.current_bytes += bytes;
    use.peak_bytes = std::max(use.peak_bytes, use.current_bytes);
    ClassUse& blocks = classes[CachingAllocator::ClassOf(bytes)];
    blocks.most = std::max(blocks.most, ++blocks.now);
    blocks.bytes = std::max(blocks.bytes, bytes);
  }
  ~CountedStorage() override {
    use.current_bytes -= bytes();
    --classes[CachingAllocator::ClassOf(bytes())].now;
  }
};

class CountingDevice final : public Backend {
 public:
  explicit CountingDevice(Device device) : device_(device) {}
  std::shared_ptr<Storage> Allocate(int64_t bytes) override {
    return std::make_shared<CountedStorage>(bytes, device_);
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
  void Gemm(const Tensor&, const Tensor&, double, double, const Tensor&) override {}
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

}  // namespace

Backend& CountingBackend(Device device) {
  static CountingDevice* plain = new CountingDevice(kCountingDevice);
  static WideningBackend* cpu = new WideningBackend(*new CountingDevice(kCountingCpu));
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
