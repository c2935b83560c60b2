#include "src/core/cuda/cuda_backend.h"

#include <map>
#include <mutex>

#include "src/core/cuda/check.h"
#include "src/core/cuda/device.h"
#include "src/core/cuda/fused_kernels.h"
#include "src/core/cuda/host_copies.h"
#include "src/core/log.h"

namespace mnemo {
namespace {

class CudaStorage final : public Storage {
 public:
  CudaStorage(Arena& arena, Arena::Piece piece, int64_t bytes, Device device)
      : Storage(piece.data, bytes, device), arena_(arena), place_(piece.place) {}
  ~CudaStorage() override { arena_.Free(place_); }

 private:
  Arena& arena_;
  int64_t place_;
};

Arena::Source DriverMemory() {
  return {[](int64_t bytes) -> void* {
            void* block = nullptr;
            const cudaError_t status = cudaMalloc(&block, bytes);
            if (status == cudaErrorMemoryAllocation) {
              cudaGetLastError();
              return nullptr;
            }
            MNEMO_CUDA(status);
            return block;
          },
          [](void* block, int64_t) { cudaFree(block); }};
}

}  // namespace

CudaDevice::CudaDevice(int index) : index_(index) {
  const cuda::DeviceProperties properties = cuda::OpenDevice(index);
  multiprocessors_ = properties.multiprocessors;
  Use();
  int last = 0, first = 0;
  MNEMO_CUDA(cudaDeviceGetStreamPriorityRange(&last, &first));
  const auto create = [](cudaStream_t& stream, int priority) {
    MNEMO_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority));
  };
  create(stream_, first), create(beside_, first), create(behind_, last);
  create(copies_, first);
  MNEMO_CUDA(cudaMalloc(&workspace_, cuda::MatrixProducts::kWorkspaceBytes));
  arena_ = std::make_unique<Arena>(fmt::format("cuda:{}", index), DriverMemory());
  ring_ = std::make_unique<cuda::PinnedRing>();
  products_ = std::make_unique<cuda::MatrixProducts>(workspace_);
  cuda::RegisterFusedKernels(properties.major, properties.minor);
}

CudaDevice::~CudaDevice() {
  Use();
  cudaStreamSynchronize(stream_);
  products_.reset();
  ring_.reset();
  arena_.reset();
  cudaFree(workspace_);
  for (const cudaStream_t stream : {stream_, beside_, behind_, copies_}) cudaStreamDestroy(stream);
}

void CudaDevice::Use() const {
  static thread_local int current = -1;  // a new thread's is 0, but nothing says it is open
  if (current == index_) return;
  MNEMO_CUDA(cudaSetDevice(index_));
  current = index_;
}

std::shared_ptr<Storage> CudaDevice::Allocate(int64_t bytes) {
  Use();  // the arena may grow
  return std::make_shared<CudaStorage>(*arena_, arena_->Allocate(bytes), bytes,
                                       Device{DeviceType::kCuda, index_});
}

void CudaDevice::CopyToHost(const Tensor& x, void* host) {
  MNEMO_CHECK(x.contiguous());
  if (x.bytes() == 0) return;
  Use();
  MNEMO_CUDA(cudaMemcpyAsync(host, x.raw(), x.bytes(), cudaMemcpyDeviceToHost, stream_));
  MNEMO_CUDA(cudaStreamSynchronize(stream_));
}

void CudaDevice::CopyFromHost(const void* host, const Tensor& out) {
  MNEMO_CHECK(out.contiguous());
  if (out.bytes() == 0) return;
  Use();
  ring_->Copy(host, out.bytes(), out.raw(), stream_);
}

std::shared_ptr<Storage> CudaDevice::AllocateOnHost(int64_t bytes) {
  Use();
  if (auto pinned = cuda::AllocatePinned(bytes)) return pinned;
  LogWarning(
      "cuda:{}: {} bytes of host memory cannot be page-locked (`ulimit -l`, or too little memory): "
      "copies to ordinary memory are slower, and training waits for them",
      index_, bytes);
  return Backend::AllocateOnHost(bytes);
}

std::unique_ptr<HostCopies> CudaDevice::StartCopiesToHost(std::span<const Tensor> values,
                                                          std::span<const Tensor> hosts) {
  MNEMO_CHECK(values.size() == hosts.size());
  for (size_t i = 0; i < values.size(); ++i) {
    MNEMO_CHECK(values[i].contiguous() && hosts[i].contiguous() &&
                values[i].bytes() == hosts[i].bytes());
  }
  Use();
  return std::make_unique<cuda::StreamCopies>(values, hosts, stream_, copies_);
}

MemoryUse CudaDevice::Memory() const { return arena_->use(); }

void CudaDevice::ResetPeakMemory() { arena_->ResetPeak(); }

cuda::View ViewOf(const Tensor& x) {
  Require(x.rank() <= cuda::kMaxRank, "tensors on a GPU have at most {} dims, not {}",
          cuda::kMaxRank, x.shape());
  cuda::View view;
  view.data = x.raw();
  view.dtype = x.dtype();
  view.rank = x.rank();
  for (int axis = 0; axis < view.rank; ++axis) {
    view.shape[axis] = x.shape()[axis];
    view.strides[axis] = x.strides()[axis];
  }
  return view;
}

CudaScratch::CudaScratch(CudaDevice& device) : device_(device), pieces_(device.arena()) {
  device.Use();
}

CudaScratch::Pieces::~Pieces() {
  for (const int64_t place : places_) arena_.Free(place);
}

void* CudaScratch::Pieces::Take(int64_t bytes) {
  const Arena::Piece piece = arena_.Allocate(bytes);
  places_.push_back(piece.place);
  return piece.data;
}

// Never destroyed: tensors in static storage may be freed after any static object here, and the
// driver may be gone by then.
Backend& CudaBackend(int index) {
  static thread_local CudaDevice* last = nullptr;
  if (last != nullptr && last->index() == index) return *last;
  static std::mutex mutex;
  static auto* devices = new std::map<int, std::unique_ptr<CudaDevice>>;
  std::lock_guard lock(mutex);
  std::unique_ptr<CudaDevice>& device = (*devices)[index];
  if (device == nullptr) device = std::make_unique<CudaDevice>(index);
  last = device.get();
  return *last;
}

}  // namespace mnemo
