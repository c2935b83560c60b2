// cuDNN's attention (src/core/cuda/sdpa.h) in plain loops, in the place of src/core/cuda/sdpa.cc.
#include "src/core/cuda/sdpa.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace mnemo::cuda {
namespace {

using Row = std::vector<double>;

int64_t RowAt(const SdpaStrides& strides, int64_t batch, int64_t head, int64_t row) {
  return batch * strides[0] + head * strides[1] + row * strides[2];
}

Row Load(const void* data, int64_t at, int64_t features) {
  Row row(features);
  const auto* from = static_cast<const __nv_bfloat16*>(data) + at;
  for (int64_t f = 0; f < features; ++f) row[f] = __bfloat162float(from[f]);
  return row;
}

void Store(void* data, int64_t at, const Row& row) {
  auto* to = static_cast<__nv_bfloat16*>(data) + at;
  for (size_t f = 0; f < row.size(); ++f) to[f] = __float2bfloat16(static_cast<float>(row[f]));
}

double Dot(const Row& a, const Row& b) {
  double sum = 0;
  for (size_t f = 0; f < a.size(); ++f) sum += a[f] * b[f];
  return sum;
}

void Add(double scale, const Row& x, Row& to) {
  for (size_t f = 0; f < x.size(); ++f) to[f] += scale * x[f];
}

// Keys [first, end) that a query sees.
struct Visible {
  int64_t first, end;
  Visible(const SdpaShape& s, int64_t query) : first(0), end(s.keys) {
    if (!s.causal) return;
    end = s.keys - s.queries + query + 1;
    if (s.window > 0) first = std::max<int64_t>(0, end - s.window);
  }
};

std::vector<Row> LoadRows(const SdpaShape& s, const void* data, const SdpaStrides& strides,
                          int64_t batch, int64_t head, int64_t rows) {
  std::vector<Row> all;
  for (int64_t i = 0; i < rows; ++i)
    all.push_back(Load(data, RowAt(strides, batch, head, i), s.head_dim));
  return all;
}

double Scale(const SdpaShape& s) { return 1 / std::sqrt(static_cast<double>(s.head_dim)); }

void ForwardHead(const SdpaShape& s, const SdpaForwardCall& call, int64_t batch, int64_t head) {
  const auto k = LoadRows(s, call.k, s.k, batch, head, s.keys);
  const auto v = LoadRows(s, call.v, s.v, batch, head, s.keys);
  for (int64_t i = 0; i < s.queries; ++i) {
    const Row q = Load(call.q, RowAt(s.q, batch, head, i), s.head_dim);
    const Visible seen(s, i);
    Row scores;
    for (int64_t j = seen.first; j < seen.end; ++j) scores.push_back(Scale(s) * Dot(q, k[j]));
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    Row o(s.head_dim, 0);
    for (int64_t j = seen.first; j < seen.end; ++j) {
      const double weight = std::exp(scores[j - seen.first] - top);
      sum += weight;
      Add(weight, v[j], o);
    }
    for (double& x : o) x /= sum;
    Store(call.o, RowAt(s.o, batch, head, i), o);
    call.stats[(batch * s.heads + head) * s.queries + i] = static_cast<float>(top + std::log(sum));
  }
}

void BackwardHead(const SdpaShape& s, const SdpaBackwardCall& call, int64_t batch, int64_t head) {
  const auto k = LoadRows(s, call.k, s.k, batch, head, s.keys);
  const auto v = LoadRows(s, call.v, s.v, batch, head, s.keys);
  std::vector<Row> grad_k(s.keys, Row(s.head_dim, 0)), grad_v = grad_k;
  for (int64_t i = 0; i < s.queries; ++i) {
    const Row q = Load(call.q, RowAt(s.q, batch, head, i), s.head_dim);
    const Row o = Load(call.o, RowAt(s.o, batch, head, i), s.head_dim);
    const Row grad_o = Load(call.grad_o, RowAt(s.grad_o, batch, head, i), s.head_dim);
    const double along = Dot(o, grad_o);
    const double stats = call.stats[(batch * s.heads + head) * s.queries + i];
    const Visible seen(s, i);
    Row grad_q(s.head_dim, 0);
    for (int64_t j = seen.first; j < seen.end; ++j) {
      const double weight = std::exp(Scale(s) * Dot(q, k[j]) - stats);
      const double grad_score = Scale(s) * weight * (Dot(grad_o, v[j]) - along);
      Add(weight, grad_o, grad_v[j]);
      Add(grad_score, q, grad_k[j]);
      Add(grad_score, k[j], grad_q);
    }
    Store(call.grad_q, RowAt(s.grad_q, batch, head, i), grad_q);
  }
  for (int64_t j = 0; j < s.keys; ++j) {
    Store(call.grad_k, RowAt(s.grad_k, batch, head, j), grad_k[j]);
    Store(call.grad_v, RowAt(s.grad_v, batch, head, j), grad_v[j]);
  }
}

template <typename Call>
void ForEachHead(const SdpaShape& s, const Call& call,
                 void (*run)(const SdpaShape&, const Call&, int64_t, int64_t)) {
  for (int64_t batch = 0; batch < s.batch; ++batch)
    for (int64_t head = 0; head < s.heads; ++head) run(s, call, batch, head);
}

}  // namespace

struct SdpaGraphs::Graph {};

SdpaGraphs::SdpaGraphs() = default;
SdpaGraphs::~SdpaGraphs() = default;

void SdpaGraphs::Forward(const Launch&, const SdpaShape& shape, const SdpaForwardCall& call) {
  ForEachHead(shape, call, ForwardHead);
}

void SdpaGraphs::Backward(const Launch& launch, const SdpaShape& shape,
                          const SdpaBackwardCall& call) {
  launch.scratch.Take(SdpaBackwardWorkspace(shape));  // as much as cuDNN takes
  ForEachHead(shape, call, BackwardHead);
}

}  // namespace mnemo::cuda
