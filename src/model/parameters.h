// The learned tensors of a model: their names, shapes, first values and order.
//
// Names are stable: exports and checkpoints use them. docs/model.md lists them.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/core/tape.h"
#include "src/model/spec.h"

namespace mnemo {

struct ParameterInfo {
  std::string name;   // "layers.3.memory.q.weight"
  Shape shape;        // of what this rank holds
  int layer = -1;     // -1: outside the layers (embedding, final norm, head)
  bool decay = true;  // weight decay applies: matrices that multiply activations
  // With tensor parallelism: the dim along which ranks hold parts, the index where this rank's
  // begins, and the size of all. -1: every rank holds the whole tensor.
  int split = -1;
  int64_t first = 0, whole = 0;
  // Multiplies activations, or stands among them: with mixed precision it is read in bf16.
  bool narrow = false;
};

// The tensor's shape, and where in it this rank's part begins.
Shape WholeShape(const ParameterInfo& info);
Shape PartBegin(const ParameterInfo& info);
// This rank's part of a whole tensor (view).
Tensor PartOf(const Tensor& whole, const ParameterInfo& info);

// All parameters of a model, in a fixed order: embedding, layers, final norm, head (unless tied).
// On every tensor-parallel rank the same ones, in the same order.
std::vector<ParameterInfo> DescribeParameters(const ModelSpec& spec);
int64_t CountParameters(const ModelSpec& spec);        // of the whole model
int64_t CountOwnParameters(const ModelSpec& spec);     // held by spec.split's rank
int64_t CountNarrowParameters(const ModelSpec& spec);  // of these, the narrow ones
// alpha of every head before training, log-spaced; what the rule's gate biases begin with.
std::vector<double> InitialAlphas(const ModelSpec& spec);

// Values, or gradients, for every parameter of a model. They lie one after the other in one buffer,
// so that a collective or an optimizer can take them as a whole. Copying shares the buffer.
//
// With mixed precision values are f32 and the narrow ones (ParameterInfo) have a bf16 copy beside
// them, which is what a model reads. Whoever changes values by any way but Set() refreshes it.
class ParameterSet {
 public:
  // Every tensor of the buffer begins at a multiple of this many elements; what is between is zero.
  static constexpr int64_t kAlignment = 16;

  ParameterSet() = default;
  // Zeros of these shapes.
  ParameterSet(std::vector<ParameterInfo> infos, DType dtype, Device device);
  // Copies the values, which have one dtype and device.
  ParameterSet(std::vector<ParameterInfo> infos, std::vector<Tensor> values);
  // First values: a pure function of (seed, name), of which a part holds its part.
  static ParameterSet Initialize(const ModelSpec& spec, uint64_t seed, DType dtype,
                                 Device device = {});
  static ParameterSet Zeros(const ModelSpec& spec, DType dtype, Device device = {});

  // All of them: [elements], padding included.
  const Tensor& flat() const { return flat_; }
  int64_t offset(size_t i) const { return offsets_[i]; }  // of the i-th in flat()

  size_t size() const { return values_.size(); }
  const std::vector<ParameterInfo>& infos() const { return infos_; }
  const ParameterInfo& info(size_t i) const { return infos_[i]; }
  const std::vector<Tensor>& values() const { return values_; }
  const Tensor& operator[](size_t i) const { return values_[i]; }
  void Set(size_t i, const Tensor& value);  // copies, also into the compute copy; shape must match

  // Gives narrow parameters a copy in `dtype`, up to date; nothing if it is the values' own.
  void AddComputeCopies(DType dtype);
  // The dtype that activations have.
  DType compute_dtype() const { return compute_.defined() ? compute_.dtype() : flat_.dtype(); }
  // What a model reads of the i-th: its compute copy if it has one, else its value.
  const Tensor& Compute(size_t i) const { return compute_.defined() ? reads_[i] : values_[i]; }
  void RefreshCompute();
  int64_t compute_bytes() const { return compute_.defined() ? compute_.bytes() : 0; }

  // Index of a name, or -1.
  int Find(std::string_view name) const;
  const Tensor& Get(std::string_view name) const;  // MNEMO_CHECKs that it exists
  // Indices of one layer's parameters (-1: those outside the layers).
  std::vector<int> OfLayer(int layer) const;

 private:
  std::vector<ParameterInfo> infos_;
  Tensor flat_;
  std::vector<int64_t> offsets_;
  std::vector<Tensor> values_;  // views of flat_
  Tensor compute_;              // copies of the narrow ones, one after the other
  std::vector<Tensor> reads_;   // views of compute_, or values
  // Runs of narrow parameters: [begin, end) of flat_ has its copy at `at` in compute_.
  struct CopiedRun {
    int64_t begin, end, at;
  };
  std::vector<CopiedRun> copied_;
  std::map<std::string, int, std::less<>> index_;
};

// The parameters that one unit of work reads, as Vars: leaves of a tape, or constants. Narrow ones
// are read in the compute dtype.
class UnitParameters {
 public:
  // `tape` null: constants. With `gradients` (same layout as `parameters`) the tape adds what it
  // finds to them.
  UnitParameters(const ParameterSet& parameters, int layer, Tape* tape,
                 const ParameterSet* gradients = nullptr);
  // By name within the layer ("memory.q.weight"); undefined Var if the model has none.
  Var Get(std::string_view name) const;

  const std::vector<int>& indices() const { return indices_; }  // into the ParameterSet
  const std::vector<Var>& vars() const { return vars_; }        // same order

 private:
  std::vector<int> indices_;
  std::vector<Var> vars_;
  std::map<std::string, int, std::less<>> by_name_;
};

}  // namespace mnemo
