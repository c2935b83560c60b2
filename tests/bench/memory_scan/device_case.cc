#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "tests/bench/memory_scan/device_array.h"

namespace mnemo::memory_bench {

using memory_reference::Mat;
using memory_reference::State;

void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) Check(cudaGetErrorString(error), what);
}

void Check(const char* error, const char* what) {
  if (error == nullptr) return;
  std::fprintf(stderr, "%s: %s\n", what, error);
  std::exit(1);
}

MemoryScanShape BareShape(MemoryScanShape shape) {
  shape.norm = false;
  return shape;
}

MemoryScanShape FlatShape(MemoryScanShape shape) {
  shape.depth = 1, shape.norm = shape.residual = false;
  return shape;
}

MemoryScanShape FlatNormShape(MemoryScanShape shape) {
  shape.depth = 1;
  return shape;
}

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  Check(cudaMalloc(&data_, bytes), "cudaMalloc");
  Poison();
}
Buffer::~Buffer() { cudaFree(data_); }
void Buffer::Poison() {
  Check(cudaMemset(data_, 0xff, bytes_), "cudaMemset");
  Check(cudaDeviceSynchronize(), "cudaMemset");  // the cases' streams do not wait for this one
}

namespace {

using Generator = std::mt19937;

// A table of normal numbers, read from random places: fast enough for benchmark sizes.
std::vector<float> Normal(Generator& g, size_t n, double scale) {
  static const std::vector<float> table = [] {
    Generator local(99);
    std::normal_distribution<float> normal;
    std::vector<float> t(1 << 20);
    for (float& x : t) x = normal(local);
    return t;
  }();
  std::vector<float> v(n);
  size_t at = g();
  for (size_t i = 0; i < n; ++i) {
    if (i % 64 == 0) at = g();
    v[i] = static_cast<float>(scale) * table[at++ & (table.size() - 1)];
  }
  return v;
}

std::vector<float> Uniform(Generator& g, size_t n, float low, float high) {
  std::vector<float> v(n);
  for (float& x : v) x = low + (high - low) * static_cast<float>(g() * 0x1p-32);
  return v;
}

// silu of normal numbers, rows of 64 brought to length one on request.
std::vector<float> Rows64(Generator& g, size_t n, bool unit) {
  std::vector<float> v = Normal(g, n, 1);
  for (float& x : v) x = x / (1 + std::exp(-x));
  if (!unit) return v;
  for (size_t i = 0; i < n; i += 64) {
    float sum = 1e-6f;
    for (size_t j = i; j < i + 64; ++j) sum += v[j] * v[j];
    for (size_t j = i; j < i + 64; ++j) v[j] /= std::sqrt(sum);
  }
  return v;
}

}  // namespace

std::shared_ptr<DeviceCase::Array> DeviceCase::Make(std::vector<float> host, bool is_bf16) {
  auto a = std::make_shared<Array>(host.size(), is_bf16);
  a->host = std::move(host);
  a->Upload();
  if (!keep_host_) std::vector<float>().swap(a->host);
  return a;
}

DeviceCase::DeviceCase(const Case& c, bool keep_host) : case_(c), keep_host_(keep_host) {
  const MemoryScanShape& s = c.shape;
  Generator g(c.seed);
  const size_t gates = s.batch * s.tokens * s.heads, rows = gates * 64;
  const bool flat = s.depth == 1;
  const size_t weights = s.batch * s.heads * 64 * (flat ? 64 : 256);
  // Of W1: outputs of the size of the values, or for a norm, which would magnify small ones, of
  // one. At depth 2 without a norm a chunk's writes must not add up to more than they correct.
  const double scale = s.norm ? 1.0 : flat ? 1.0 / 8 : 1.0 / 4;
  q_ = Make(Rows64(g, rows, true), true);
  k_ = Make(Rows64(g, rows, true), true);
  v_ = Make(Rows64(g, rows, false), true);
  std::vector<float> eta = Uniform(g, gates, 0.1f, 0.95f), theta = Uniform(g, gates, 0.1f, 1.0f);
  std::vector<float> alpha = Uniform(g, gates, 0.01f * c.alpha_max, c.alpha_max);
  if (!c.momentum) eta.assign(gates, 0);
  if (!c.forgetting) alpha.assign(gates, 0);
  for (size_t i = 0; i < gates; ++i) theta[i] *= (1 - eta[i]) / 64;
  gates_ = {Make(std::move(theta), false), Make(std::move(eta), false),
            Make(std::move(alpha), false)};
  gain_ = Make(Uniform(g, s.heads * 64, 0.7f, 1.3f), false);
  bias_ = Make(Normal(g, s.heads * 64, 0.1), false);
  carry_in_ = {Make(Normal(g, weights, scale), false), Make(Normal(g, weights, 1.0 / 16), false),
               Make(Normal(g, weights, c.momentum ? 0.02 : 0), false),
               Make(Normal(g, weights, c.momentum ? 0.002 : 0), false)};
  // Of c1, c2, t1, t2: of the last two, the momenta, none are used without momentum.
  const auto biases = [&](int i) -> size_t {
    return s.batch * s.heads * (flat || i % 2 ? 64 : 256);
  };
  const int bias_arrays = s.biases ? 4 : 0;
  for (int i = 0; i < bias_arrays; ++i)
    carry_in_.push_back(Make(Normal(g, biases(i), i < 2 ? 0.2 : c.momentum ? 0.02 : 0), false));
  const auto output = [](size_t n, bool b) { return std::make_shared<Array>(n, b); };
  const size_t per_head = weights / s.batch;
  if (!s.plain()) {
    initial_ = {Make(Normal(g, per_head, scale), false)};
    if (!flat) initial_.push_back(Make(Normal(g, per_head, 1.0 / 16), false));
    const size_t chunks = (s.tokens + s.chunk - 1) / s.chunk;
    std::vector<float> resets(s.batch * chunks);
    for (size_t i = 0; i < resets.size(); ++i) resets[i] = g() % 3 == 0 ? 1.0f : 0.0f;
    resets_ = Make(std::move(resets), false);
    hits_ = output(1, false);
    for (int i = 0; i < (s.biases ? s.depth : 0); ++i)
      initial_biases_.push_back(Make(Normal(g, biases(i) / s.batch, 0.2), false));
    if (s.row_scale) {
      std::vector<float> learned = Uniform(g, s.chunk, -0.2f, 1.0f);
      learned[s.chunk / 2] = -1;  // this row of G is zero
      row_scale_ = Make(std::move(learned), false);
    }
  }
  y_ = output(rows, true);
  for (int i = 0; i < 4; ++i) carry_out_.push_back(output(weights, false));
  for (int i = 0; i < bias_arrays; ++i) carry_out_.push_back(output(biases(i), false));
  workspace_ = std::make_unique<Buffer>(MemoryScanForwardWorkspace(s, c.backward && c.retain));
  if (!c.backward) return;
  if (c.retain) {
    retained_ = std::make_unique<Buffer>(MemoryScanRetainedBytes(s));
  } else {
    checkpoints_ = std::make_unique<Buffer>(MemoryScanCheckpointBytes(s));
  }
  backward_workspace_ = std::make_unique<Buffer>(MemoryScanBackwardWorkspace(s, c.retain));
  dy_ = Make(Normal(g, rows, 1), true);
  dcarry_out_ = {Make(Normal(g, weights, 0.3), false), Make(Normal(g, weights, 1), false),
                 Make(Normal(g, weights, c.momentum ? 0.3 : 0), false),
                 Make(Normal(g, weights, c.momentum ? 1 : 0), false)};
  for (int i = 0; i < bias_arrays; ++i)
    dcarry_out_.push_back(Make(Normal(g, biases(i), i < 2 || c.momentum ? 1 : 0), false));
  for (size_t i = 0; i < initial_biases_.size(); ++i)
    dinitial_biases_.push_back(output(biases(static_cast<int>(i)) / s.batch, false));
  if (s.row_scale) drow_scale_ = output(s.chunk, false);
  dq_ = output(rows, true), dk_ = output(rows, true), dv_ = output(rows, true);
  dgain_ = output(s.heads * 64, false), dbias_ = output(s.heads * 64, false);
  for (int i = 0; i < 3; ++i) dgates_.push_back(output(gates, false));
  for (int i = 0; i < 4; ++i) dcarry_in_.push_back(output(weights, false));
  for (int i = 0; i < bias_arrays; ++i) dcarry_in_.push_back(output(biases(i), false));
  for (size_t i = 0; i < initial_.size(); ++i) dinitial_.push_back(output(per_head, false));
}

bool DeviceCase::HasWeights(int i) const {
  if (i > 3 && !case_.shape.biases) return false;
  return (case_.shape.depth > 1 || i % 2 == 0) && (case_.momentum || i % 4 < 2);
}

MemoryScanRows DeviceCase::RowsOf(const Array& a) const {
  const int64_t token = case_.shape.heads * 64;
  return {a.device.data(), case_.shape.tokens * token, token};
}

namespace {

template <typename T>
MemoryScanCarry CarryOf(const DeviceCase& d, const T& a) {
  const auto at = [&](int i) { return d.HasWeights(i) ? a[i]->device.floats() : nullptr; };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
}

template <typename T>
MemoryScanGates GatesOf(const Case& c, const T& a) {
  return {a[0]->device.floats(), c.momentum ? a[1]->device.floats() : nullptr,
          c.forgetting ? a[2]->device.floats() : nullptr};
}

template <typename T>
float* FloatsOf(const T& a) {
  return a ? a->device.floats() : nullptr;
}

template <typename T>
MemoryScanInitial InitialOf(const T& a, const T& biases) {
  const auto at = [](const T& list, size_t i) {
    return i < list.size() ? FloatsOf(list[i]) : nullptr;
  };
  return {at(a, 0), at(a, 1), at(biases, 0), at(biases, 1)};
}

}  // namespace

const char* DeviceCase::Forward(cudaStream_t stream) {
  MemoryScanForwardArgs a;
  a.shape = case_.shape;
  a.q = RowsOf(*q_), a.k = RowsOf(*k_), a.v = RowsOf(*v_), a.y = RowsOf(*y_);
  a.gates = GatesOf(case_, gates_);
  a.norm_gain = gain_->device.floats(), a.norm_bias = bias_->device.floats();
  a.carry_in = CarryOf(*this, carry_in_), a.carry_out = CarryOf(*this, carry_out_);
  a.workspace = workspace_->data();
  a.checkpoints = checkpoints_ ? checkpoints_->floats() : nullptr;
  a.retained = retained_ ? retained_->data() : nullptr;
  a.side_stream = case_.side_streams[1];
  if (!initial_.empty()) {
    a.initial = InitialOf(initial_, initial_biases_);
    a.row_scale = FloatsOf(row_scale_);
    a.resets = resets_->device.floats();
    a.clamp_hits = hits_->device.floats();
  }
  return MemoryScanForward(a, stream);
}

const char* DeviceCase::Backward(cudaStream_t stream) {
  MemoryScanBackwardArgs a;
  a.shape = case_.shape;
  a.q = RowsOf(*q_), a.k = RowsOf(*k_), a.v = RowsOf(*v_), a.dy = RowsOf(*dy_);
  a.dq = RowsOf(*dq_), a.dk = RowsOf(*dk_), a.dv = RowsOf(*dv_);
  a.gates = GatesOf(case_, gates_), a.dgates = GatesOf(case_, dgates_);
  a.norm_gain = gain_->device.floats(), a.norm_bias = bias_->device.floats();
  a.dnorm_gain = dgain_->device.floats(), a.dnorm_bias = dbias_->device.floats();
  a.checkpoints = checkpoints_ ? checkpoints_->floats() : nullptr;
  a.retained = retained_ ? retained_->data() : nullptr;
  a.dcarry_out = CarryOf(*this, dcarry_out_), a.dcarry_in = CarryOf(*this, dcarry_in_);
  a.workspace = backward_workspace_->data();
  a.side_streams[0] = case_.side_streams[0], a.side_streams[1] = case_.side_streams[1];
  if (!initial_.empty()) {
    a.initial = InitialOf(initial_, initial_biases_);
    a.dinitial = InitialOf(dinitial_, dinitial_biases_);
    a.row_scale = FloatsOf(row_scale_), a.drow_scale = FloatsOf(drow_scale_);
    a.resets = resets_->device.floats();
  }
  return MemoryScanBackward(a, stream);
}

void DeviceCase::PoisonOutputs() {
  y_->device.Poison();
  workspace_->Poison();
  for (auto& a : carry_out_) a->device.Poison();
  if (hits_) hits_->device.Poison();
  for (auto& a : dinitial_) a->device.Poison();
  for (auto& a : dinitial_biases_) a->device.Poison();
  if (drow_scale_) drow_scale_->device.Poison();
  if (!case_.backward) return;
  for (Buffer* b : {checkpoints_.get(), retained_.get(), backward_workspace_.get()})
    if (b != nullptr) b->Poison();
  for (auto& a : {dq_, dk_, dv_, dgain_, dbias_}) a->device.Poison();
  for (auto& a : dgates_) a->device.Poison();
  for (auto& a : dcarry_in_) a->device.Poison();
}

void DeviceCase::Fetch() {
  y_->Download();
  for (auto& a : carry_out_) a->Download();
  if (hits_) hits_->Download();
  for (auto& a : dinitial_) a->Download();
  for (auto& a : dinitial_biases_) a->Download();
  if (drow_scale_) drow_scale_->Download();
  if (!case_.backward) return;
  for (auto& a : {dq_, dk_, dv_, dgain_, dbias_}) a->Download();
  for (auto& a : dgates_) a->Download();
  for (auto& a : dcarry_in_) a->Download();
}

uint64_t DeviceCase::Checksum() const {
  uint64_t hash = 1469598103934665603u;
  const auto add = [&](const std::shared_ptr<Array>& a) {
    for (float x : a->host) {
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      hash = (hash ^ bits) * 1099511628211u;
    }
  };
  add(y_);
  const auto add_state = [&](const std::vector<std::shared_ptr<Array>>& a) {
    for (int i = 0; i < 8; ++i)
      if (HasWeights(i)) add(a[i]);
  };
  add_state(carry_out_);
  if (hits_) add(hits_);
  for (auto& a : dinitial_) add(a);
  for (auto& a : dinitial_biases_) add(a);
  if (drow_scale_) add(drow_scale_);
  if (!case_.backward) return hash;
  for (auto& a : {dq_, dk_, dv_, dgain_, dbias_}) add(a);
  for (auto& a : dgates_) add(a);
  add_state(dcarry_in_);
  return hash;
}

}  // namespace mnemo::memory_bench
