#include "src/model/parameters.h"

#include <cmath>

#include "src/core/backend.h"
#include "src/core/random.h"
#include "src/core/thread_pool.h"
#include "src/model/parameter_layout.h"

namespace mnemo {
namespace {

// Initial biases of alpha's gate, so that alpha_max * sigmoid(bias_h) is alpha_h.
std::vector<double> AlphaBiases(const ModelSpec& spec) {
  std::vector<double> biases = InitialAlphas(spec);
  for (double& value : biases) {
    const double share = value / spec.gates.alpha_max;
    value = std::log(share / (1 - share));
  }
  return biases;
}

// Runs of a part's elements that are consecutive in the whole tensor.
struct PartRuns {
  explicit PartRuns(const ParameterInfo& info) {
    const int64_t elements = ElementCount(info.shape);
    length = stride = elements;
    if (info.split < 0) return;
    int64_t inner = 1;
    for (size_t dim = info.split + 1; dim < info.shape.size(); ++dim) inner *= info.shape[dim];
    begin = info.first * inner;
    length = info.shape[info.split] * inner;
    stride = info.whole * inner;
  }
  // Index in the whole tensor of element i of the part.
  int64_t WholeIndex(int64_t i) const { return begin + i / length * stride + i % length; }

  int64_t begin = 0, length = 0, stride = 0;
};

Tensor FirstTensor(const ModelSpec& spec, const ParameterDescription& description, uint64_t seed,
                   DType dtype, Device device) {
  const ParameterInfo& info = description.info;
  switch (description.first.kind) {
    case FirstValues::Kind::kConstant:
      return Tensor::Full(info.shape, description.first.value, dtype, device);
    case FirstValues::Kind::kLogSpacedAlpha:
      return PartOf(Tensor::FromHost(AlphaBiases(spec), WholeShape(info), dtype, device), info);
    case FirstValues::Kind::kNormal:
      break;
  }
  const RandomStream stream(seed, 0, "init/" + info.name);
  const PartRuns runs(info);
  std::vector<float> values(ElementCount(info.shape));
  ParallelFor(static_cast<int64_t>(values.size()), 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      values[i] = static_cast<float>(description.first.value * stream.Normal(runs.WholeIndex(i)));
    }
  });
  return Tensor::FromHost(values, info.shape, dtype, device);
}

}  // namespace

std::vector<ParameterInfo> DescribeParameters(const ModelSpec& spec) {
  std::vector<ParameterInfo> infos;
  for (ParameterDescription& description : LayOutParameters(spec)) {
    infos.push_back(std::move(description.info));
  }
  return infos;
}

Shape WholeShape(const ParameterInfo& info) {
  Shape shape = info.shape;
  if (info.split >= 0) shape[info.split] = info.whole;
  return shape;
}

Shape PartBegin(const ParameterInfo& info) {
  Shape begin(info.shape.size(), 0);
  if (info.split >= 0) begin[info.split] = info.first;
  return begin;
}

Tensor PartOf(const Tensor& whole, const ParameterInfo& info) {
  if (info.split < 0) return whole;
  return whole.Slice(info.split, info.first, info.first + info.shape[info.split]);
}

int64_t CountParameters(const ModelSpec& spec) {
  int64_t count = 0;
  for (const ParameterInfo& info : DescribeParameters(spec))
    count += ElementCount(WholeShape(info));
  return count;
}

int64_t CountOwnParameters(const ModelSpec& spec) {
  int64_t count = 0;
  for (const ParameterInfo& info : DescribeParameters(spec)) count += ElementCount(info.shape);
  return count;
}

int64_t CountNarrowParameters(const ModelSpec& spec) {
  int64_t count = 0;
  for (const ParameterInfo& info : DescribeParameters(spec)) {
    if (info.narrow) count += ElementCount(info.shape);
  }
  return count;
}

std::vector<double> InitialAlphas(const ModelSpec& spec) {
  const double first = std::log(spec.gates.alpha_first), last = std::log(spec.gates.alpha_last);
  std::vector<double> alphas(spec.heads);
  for (int64_t h = 0; h < spec.heads; ++h) {
    const double part =
        spec.heads == 1 ? 0 : static_cast<double>(h) / static_cast<double>(spec.heads - 1);
    alphas[h] = std::exp((1 - part) * first + part * last);
  }
  return alphas;
}

ParameterSet::ParameterSet(std::vector<ParameterInfo> infos, DType dtype, Device device)
    : infos_(std::move(infos)) {
  int64_t end = 0;
  for (size_t i = 0; i < infos_.size(); ++i) {
    index_[infos_[i].name] = static_cast<int>(i);
    offsets_.push_back(end);
    const int64_t elements = ElementCount(infos_[i].shape);
    end += (elements + kAlignment - 1) / kAlignment * kAlignment;
  }
  flat_ = Tensor::Zeros({end}, dtype, device);
  for (size_t i = 0; i < infos_.size(); ++i) {
    const int64_t begin = offsets_[i], elements = ElementCount(infos_[i].shape);
    values_.push_back(flat_.Slice(0, begin, begin + elements).View(infos_[i].shape));
  }
}

ParameterSet::ParameterSet(std::vector<ParameterInfo> infos, std::vector<Tensor> values)
    : ParameterSet(std::move(infos), values.empty() ? DType::kF32 : values[0].dtype(),
                   values.empty() ? Device{} : values[0].device()) {
  MNEMO_CHECK(infos_.size() == values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const Tensor value = std::move(values[i]);  // freed at once: a large model is not held twice
    Set(i, value);
  }
}

ParameterSet ParameterSet::Initialize(const ModelSpec& spec, uint64_t seed, DType dtype,
                                      Device device) {
  ParameterSet set(DescribeParameters(spec), dtype, device);
  const std::vector<ParameterDescription> descriptions = LayOutParameters(spec);
  for (size_t i = 0; i < descriptions.size(); ++i) {
    set.Set(i, FirstTensor(spec, descriptions[i], seed, dtype, device));
  }
  return set;
}

ParameterSet ParameterSet::Zeros(const ModelSpec& spec, DType dtype, Device device) {
  return ParameterSet(DescribeParameters(spec), dtype, device);
}

void ParameterSet::Set(size_t i, const Tensor& value) {
  MNEMO_CHECK(value.shape() == infos_[i].shape && value.dtype() == flat_.dtype(), "{}: {} {}",
              infos_[i].name, Name(value.dtype()), ToString(value.shape()));
  Backend& backend = Backend::For(flat_.device());
  backend.Copy(value.To(flat_.device()), values_[i]);
  if (compute_.defined() && infos_[i].narrow) backend.Copy(values_[i], reads_[i]);
}

void ParameterSet::AddComputeCopies(DType dtype) {
  if (dtype == flat_.dtype()) return;
  MNEMO_CHECK(!compute_.defined() && WideType(dtype) == flat_.dtype(), "{} copies of {} values",
              Name(dtype), Name(flat_.dtype()));
  int64_t end = 0;
  std::vector<int64_t> at(size(), -1);
  for (size_t i = 0; i < size(); ++i) {
    if (!infos_[i].narrow) continue;
    const int64_t next = i + 1 < size() ? offsets_[i + 1] : flat_.elements();
    if (copied_.empty() || copied_.back().end != offsets_[i]) {
      copied_.push_back({offsets_[i], offsets_[i], end});
    }
    copied_.back().end = next;
    at[i] = end;
    end += next - offsets_[i];
  }
  compute_ = Tensor::Empty({end}, dtype, flat_.device());
  reads_ = values_;
  for (size_t i = 0; i < size(); ++i) {
    if (at[i] < 0) continue;
    reads_[i] = compute_.Slice(0, at[i], at[i] + values_[i].elements()).View(infos_[i].shape);
  }
  RefreshCompute();
}

void ParameterSet::RefreshCompute() {
  for (const CopiedRun& run : copied_) {
    Backend::For(flat_.device())
        .Copy(flat_.Slice(0, run.begin, run.end),
              compute_.Slice(0, run.at, run.at + run.end - run.begin));
  }
}

int ParameterSet::Find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? -1 : found->second;
}

const Tensor& ParameterSet::Get(std::string_view name) const {
  const int i = Find(name);
  MNEMO_CHECK(i >= 0, "no parameter named {}", name);
  return values_[i];
}

std::vector<int> ParameterSet::OfLayer(int layer) const {
  std::vector<int> indices;
  for (size_t i = 0; i < infos_.size(); ++i) {
    if (infos_[i].layer == layer) indices.push_back(static_cast<int>(i));
  }
  return indices;
}

UnitParameters::UnitParameters(const ParameterSet& parameters, int layer, Tape* tape,
                               const ParameterSet* gradients)
    : indices_(parameters.OfLayer(layer)) {
  const std::string prefix = layer < 0 ? "" : "layers." + std::to_string(layer) + ".";
  for (const int i : indices_) {
    by_name_[parameters.info(i).name.substr(prefix.size())] = static_cast<int>(vars_.size());
    const Tensor& value = parameters.Compute(i);
    vars_.push_back(tape == nullptr        ? Var(value)
                    : gradients == nullptr ? tape->Leaf(value)
                                           : tape->Leaf(value, (*gradients)[i]));
  }
}

Var UnitParameters::Get(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? Var() : vars_[found->second];
}

}  // namespace mnemo
