// What a case holds, as the reference takes it: one sequence, in doubles.
#include "tests/bench/memory_scan/device_array.h"

namespace mnemo::memory_bench {

using memory_reference::Mat;
using memory_reference::State;

Mat DeviceCase::HostRows(const Array& a, int64_t sequence) const {
  const MemoryScanShape& s = case_.shape;
  const int64_t batch = sequence / s.heads, head = sequence % s.heads;
  Mat m(static_cast<int>(s.tokens), 64);
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int i = 0; i < 64; ++i)
      m(t, i) = a.host[((batch * s.tokens + t) * s.heads + head) * 64 + i];
  return m;
}

std::vector<double> DeviceCase::HostGates(const Array& a, int64_t sequence) const {
  const MemoryScanShape& s = case_.shape;
  std::vector<double> v(s.tokens);
  for (int64_t t = 0; t < s.tokens; ++t)
    v[t] = a.host[(sequence / s.heads * s.tokens + t) * s.heads + sequence % s.heads];
  return v;
}

namespace {

// Of W1 (layer 0) or W2, with a column of biases behind if there are any.
template <typename A>
Mat HostWeights(const MemoryScanShape& s, const A& weights, const A& biases, int layer,
                int64_t sequence) {
  const int rows = layer || s.depth == 1 ? 64 : 256, in = layer ? 256 : 64;
  Mat m(rows, in + (biases ? 1 : 0));
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < in; ++j) m(i, j) = weights->host[(sequence * rows + i) * in + j];
    if (biases) m(i, in) = biases->host[sequence * rows + i];
  }
  return m;
}

}  // namespace

State DeviceCase::HostState(const std::vector<std::shared_ptr<Array>>& a, int64_t sequence) const {
  const MemoryScanShape& s = case_.shape;
  State state;
  for (int layer = 0; layer < s.depth; ++layer) {
    const auto biases = [&](int i) { return s.biases ? a[i] : nullptr; };
    state.w.push_back(HostWeights(s, a[layer], biases(4 + layer), layer, sequence));
    state.s.push_back(HostWeights(s, a[2 + layer], biases(6 + layer), layer, sequence));
  }
  return state;
}

std::vector<Mat> DeviceCase::HostInitial(const std::vector<std::shared_ptr<Array>>& a,
                                         const std::vector<std::shared_ptr<Array>>& biases,
                                         int64_t head) const {
  std::vector<Mat> initial;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto b = biases.empty() ? nullptr : biases[i];
    initial.push_back(HostWeights(case_.shape, a[i], b, static_cast<int>(i), head));
  }
  return initial;
}

memory_reference::Inputs DeviceCase::HostInputs(int64_t sequence) const {
  memory_reference::Inputs in{HostRows(*q_, sequence),
                              HostRows(*k_, sequence),
                              HostRows(*v_, sequence),
                              HostGates(*gates_[0], sequence),
                              HostGates(*gates_[1], sequence),
                              HostGates(*gates_[2], sequence),
                              {},
                              {},
                              HostState(carry_in_, sequence),
                              {},
                              {},
                              {}};
  const int64_t head = sequence % case_.shape.heads;
  in.gain.assign(&gain_->host[head * 64], &gain_->host[head * 64] + 64);
  in.bias.assign(&bias_->host[head * 64], &bias_->host[head * 64] + 64);
  const MemoryScanShape& s = case_.shape;
  in.initial = HostInitial(initial_, initial_biases_, head);
  if (row_scale_) in.row_scale.assign(row_scale_->host.begin(), row_scale_->host.end());
  if (s.resets) {
    const int64_t chunks = (s.tokens + s.chunk - 1) / s.chunk;
    for (int64_t i = 0; i < chunks; ++i)
      in.resets.push_back(resets_->host[sequence / s.heads * chunks + i] != 0);
  }
  return in;
}

std::vector<double> DeviceCase::DeviceRowScale() const {
  if (!drow_scale_) return {};
  return {drow_scale_->host.begin(), drow_scale_->host.end()};
}

double DeviceCase::DeviceHits() const { return hits_ ? hits_->host[0] : 0; }

Mat DeviceCase::HostDy(int64_t sequence) const { return HostRows(*dy_, sequence); }
State DeviceCase::HostDcarry(int64_t sequence) const { return HostState(dcarry_out_, sequence); }

memory_reference::Outputs DeviceCase::DeviceOutputs(int64_t sequence) const {
  return {HostRows(*y_, sequence), HostState(carry_out_, sequence), 0};
}

memory_reference::Gradients DeviceCase::DeviceGradients(int64_t sequence) const {
  const int64_t head = sequence % case_.shape.heads;
  return {HostRows(*dq_, sequence),
          HostRows(*dk_, sequence),
          HostRows(*dv_, sequence),
          HostGates(*dgates_[0], sequence),
          HostGates(*dgates_[1], sequence),
          HostGates(*dgates_[2], sequence),
          {&dgain_->host[head * 64], &dgain_->host[head * 64] + 64},
          {&dbias_->host[head * 64], &dbias_->host[head * 64] + 64},
          HostState(dcarry_in_, sequence),
          HostInitial(dinitial_, dinitial_biases_, head),
          DeviceRowScale()};
}

}  // namespace mnemo::memory_bench
