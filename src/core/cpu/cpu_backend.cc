#include "src/core/cpu/cpu_backend.h"

#include <cblas.h>

#include <cstring>

#include "src/core/cpu/widening_backend.h"

namespace mnemo {
namespace {

class CpuStorage final : public Storage {
 public:
  CpuStorage(CachingAllocator* allocator, int64_t bytes)
      : Storage(allocator->Allocate(bytes), bytes, Device{}), allocator_(allocator) {}
  ~CpuStorage() override { allocator_->Free(data(), bytes()); }

 private:
  CachingAllocator* allocator_;
};

}  // namespace

// Matrix products are threaded by us, over work cut by shape: BLAS threads would make the result
// depend on their number and would compete with ours.
CpuDevice::CpuDevice() { openblas_set_num_threads(1); }

std::shared_ptr<Storage> CpuDevice::Allocate(int64_t bytes) {
  return std::make_shared<CpuStorage>(&allocator_, bytes);
}

void CpuDevice::CopyToHost(const Tensor& x, void* host) {
  MNEMO_CHECK(x.contiguous());
  if (x.bytes() > 0) std::memcpy(host, x.raw(), x.bytes());
}

void CpuDevice::CopyFromHost(const void* host, const Tensor& out) {
  MNEMO_CHECK(out.contiguous());
  if (out.bytes() > 0) std::memcpy(out.raw(), host, out.bytes());
}

// Never destroyed: tensors in static storage may be freed after any static object here.
Backend& CpuBackend() {
  static WideningBackend* backend = new WideningBackend(*new CpuDevice);
  return *backend;
}

}  // namespace mnemo
