#include "src/core/cuda/sdpa.h"

#include <cudnn_frontend.h>

#include <cmath>
#include <unordered_map>
#include <vector>

#include "src/core/status.h"

namespace mnemo::cuda {
namespace {

namespace fe = cudnn_frontend;
using TensorRef = std::shared_ptr<fe::graph::Tensor_attributes>;

// How graphs name what is passed to them.
enum Uid : int64_t { kQ = 1, kK, kV, kO, kStats, kGradO, kGradQ, kGradK, kGradV };

std::string Describe(const SdpaShape& s, bool backward) {
  return fmt::format(
      "attention {}: {} x {} heads, {} queries, {} keys, head dim {}, {}, window {}, {}",
      backward ? "backward" : "forward", s.batch, s.heads, s.queries, s.keys, s.head_dim,
      s.causal ? "causal" : "all keys", s.window,
      s.deterministic ? "deterministic" : "any order of sums");
}

void Check(fe::error_t error, const SdpaShape& shape, bool backward) {
  if (error.is_good()) return;
  throw TensorError(Internal(
      "cuDNN {} (headers {}) refuses {}: {}; execution.fused: false computes it without cuDNN",
      cudnnGetVersion(), CUDNN_VERSION, Describe(shape, backward), error.get_message()));
}

void Check(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw TensorError(
      Internal("{} failed: {} (cuDNN {})", what, cudnnGetErrorString(status), cudnnGetVersion()));
}

std::vector<int64_t> StridesOf(const SdpaStrides& strides) {
  return {strides[0], strides[1], strides[2], 1};
}

// [B, H, rows, f]
fe::graph::Tensor_attributes Describe(const char* name, Uid uid, const SdpaShape& s, int64_t rows,
                                      const SdpaStrides& strides) {
  return fe::graph::Tensor_attributes()
      .set_name(name)
      .set_uid(uid)
      .set_dim({s.batch, s.heads, rows, s.head_dim})
      .set_stride(StridesOf(strides));
}

void SetOutput(const TensorRef& tensor, Uid uid, const SdpaShape& s, int64_t rows,
               const SdpaStrides& strides) {
  tensor->set_output(true)
      .set_uid(uid)
      .set_dim({s.batch, s.heads, rows, s.head_dim})
      .set_stride(StridesOf(strides));
}

// Which way round a mask over as many keys as queries is put is all the same but for the time that
// cuDNN takes: of a window it then skips what is hidden forward only if the mask ends with both,
// and backward only if it begins with both (9.19 on Hopper).
template <typename Attributes>
void SetMask(const SdpaShape& s, bool backward, Attributes& attributes) {
  attributes.set_attn_scale(static_cast<float>(1 / std::sqrt(static_cast<double>(s.head_dim))));
  if (!s.causal) return;
  const bool begins = s.queries == s.keys && (backward || s.window == 0);
  attributes.set_diagonal_alignment(begins ? fe::DiagonalAlignment_t::TOP_LEFT
                                           : fe::DiagonalAlignment_t::BOTTOM_RIGHT);
  attributes.set_diagonal_band_right_bound(0);
  if (s.window > 0) attributes.set_diagonal_band_left_bound(static_cast<int>(s.window));
}

void DefineForward(const SdpaShape& s, fe::graph::Graph& graph) {
  const TensorRef q = graph.tensor(Describe("q", kQ, s, s.queries, s.q));
  const TensorRef k = graph.tensor(Describe("k", kK, s, s.keys, s.k));
  const TensorRef v = graph.tensor(Describe("v", kV, s, s.keys, s.v));
  auto attributes = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true);
  SetMask(s, false, attributes);
  const auto [o, stats] = graph.sdpa(q, k, v, attributes);
  SetOutput(o, kO, s, s.queries, s.o);
  stats->set_output(true).set_uid(kStats).set_data_type(fe::DataType_t::FLOAT);
}

void DefineBackward(const SdpaShape& s, fe::graph::Graph& graph) {
  const TensorRef q = graph.tensor(Describe("q", kQ, s, s.queries, s.q));
  const TensorRef k = graph.tensor(Describe("k", kK, s, s.keys, s.k));
  const TensorRef v = graph.tensor(Describe("v", kV, s, s.keys, s.v));
  const TensorRef o = graph.tensor(Describe("o", kO, s, s.queries, s.o));
  const TensorRef grad_o = graph.tensor(Describe("grad_o", kGradO, s, s.queries, s.grad_o));
  const TensorRef stats = graph.tensor(fe::graph::Tensor_attributes()
                                           .set_name("stats")
                                           .set_uid(kStats)
                                           .set_dim({s.batch, s.heads, s.queries, 1})
                                           .set_stride({s.heads * s.queries, s.queries, 1, 1})
                                           .set_data_type(fe::DataType_t::FLOAT));
  auto attributes = fe::graph::SDPA_backward_attributes()
                        .set_name("attention_backward")
                        .set_deterministic_algorithm(s.deterministic);
  SetMask(s, true, attributes);
  const auto [grad_q, grad_k, grad_v] = graph.sdpa_backward(q, k, v, o, grad_o, stats, attributes);
  SetOutput(grad_q, kGradQ, s, s.queries, s.grad_q);
  SetOutput(grad_k, kGradK, s, s.keys, s.grad_k);
  SetOutput(grad_v, kGradV, s, s.keys, s.grad_v);
}

}  // namespace

struct SdpaGraphs::Graph {
  fe::graph::Graph graph;
  int64_t workspace = 0;

  void Run(const Launch& launch, cudnnHandle_t handle, const SdpaShape& shape, bool backward,
           std::unordered_map<int64_t, void*> pointers) {
    Check(cudnnSetStream(handle, launch.stream), "cudnnSetStream");
    void* scratch = workspace > 0 ? launch.scratch.Take(workspace) : nullptr;
    Check(graph.execute(handle, pointers, scratch), shape, backward);
  }
};

SdpaGraphs::SdpaGraphs() { Check(cudnnCreate(&handle_), "cudnnCreate"); }

SdpaGraphs::~SdpaGraphs() {
  graphs_.clear();
  cudnnDestroy(handle_);
}

SdpaGraphs::Graph& SdpaGraphs::Find(const SdpaShape& shape, bool backward) {
  std::unique_ptr<Graph>& found = graphs_[{backward, shape}];
  if (found != nullptr) return *found;
  auto made = std::make_unique<Graph>();
  made->graph.set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  if (backward) {
    DefineBackward(shape, made->graph);
  } else {
    DefineForward(shape, made->graph);
  }
  Check(made->graph.build(handle_, {fe::HeurMode_t::A}), shape, backward);
  Check(made->graph.get_workspace_size(made->workspace), shape, backward);
  found = std::move(made);
  return *found;
}

void SdpaGraphs::Forward(const Launch& launch, const SdpaShape& shape,
                         const SdpaForwardCall& call) {
  Find(shape, false)
      .Run(launch, handle_, shape, false,
           {{kQ, const_cast<void*>(call.q)},
            {kK, const_cast<void*>(call.k)},
            {kV, const_cast<void*>(call.v)},
            {kO, call.o},
            {kStats, call.stats}});
}

void SdpaGraphs::Backward(const Launch& launch, const SdpaShape& shape,
                          const SdpaBackwardCall& call) {
  Find(shape, true)
      .Run(launch, handle_, shape, true,
           {{kQ, const_cast<void*>(call.q)},
            {kK, const_cast<void*>(call.k)},
            {kV, const_cast<void*>(call.v)},
            {kO, const_cast<void*>(call.o)},
            {kGradO, const_cast<void*>(call.grad_o)},
            {kStats, const_cast<float*>(call.stats)},
            {kGradQ, call.grad_q},
            {kGradK, call.grad_k},
            {kGradV, call.grad_v}});
}

}  // namespace mnemo::cuda
