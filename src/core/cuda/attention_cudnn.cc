#include <map>
#include <mutex>

#include "src/core/cuda/attention.h"
#include "src/core/cuda/attention_merge.h"
#include "src/core/cuda/cuda_backend.h"
#include "src/core/cuda/sdpa.h"

namespace mnemo::cuda {
namespace {

CudaDevice& DeviceOf(Device device) { return static_cast<CudaDevice&>(Backend::For(device)); }

class CudnnCalls final : public AttentionCalls {
 public:
  void Forward(Device device, const SdpaShape& shape, const SdpaForwardCall& call) override {
    CudaScratch scratch(DeviceOf(device));
    Graphs& graphs = GraphsOf(device);
    std::lock_guard lock(graphs.mutex);
    graphs.graphs.Forward(scratch.launch(), shape, call);
  }

  void Backward(Device device, const SdpaShape& shape, const SdpaBackwardCall& call) override {
    CudaScratch scratch(DeviceOf(device));
    Graphs& graphs = GraphsOf(device);
    std::lock_guard lock(graphs.mutex);
    graphs.graphs.Backward(scratch.launch(), shape, call);
  }

  void Merge(Device device, const MergeCall& call) override {
    CudaScratch scratch(DeviceOf(device));
    MergeAttention(scratch.launch(), call);
  }

 private:
  // cuDNN's graphs of one GPU; a call holds the lock.
  struct Graphs {
    std::mutex mutex;
    SdpaGraphs graphs;
  };

  Graphs& GraphsOf(Device device) {
    std::lock_guard lock(mutex_);
    return graphs_[device.index];
  }

  std::mutex mutex_;
  std::map<int, Graphs> graphs_;
};

}  // namespace

void RegisterAttention(int64_t scores) {
  // Never destroyed: at the program's end cuDNN may be gone first.
  static auto* calls = new CudnnCalls;
  AttentionOp().Register(DeviceType::kCuda, AttentionKernel(*calls, scores));
}

}  // namespace mnemo::cuda
