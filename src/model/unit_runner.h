// A training step's units: forward and backward of one wavefront (M micro-batches over all slices
// of their sequences), with rematerialisation.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "src/model/block.h"
#include "src/parallel/unit_schedule.h"

namespace mnemo {

enum class Rematerialization { kKeepAll, kUnits, kSlices };

// One slice's tokens. B sequences of n tokens.
struct SliceTokens {
  Tensor tokens;   // i32 [B * n], each in [0, V)
  Tensor targets;  // i32 [B * n], each below V, -1 where masked
  SliceContext context;
};

// Gives the tokens of (micro-batch, slice); called at least once per slice and pass. It vouches for
// their range: on a device of its own nobody looks at them again.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual SliceTokens Get(int micro_batch, int64_t slice) = 0;
};

// The tables of the slice that was begun last: a step of one slice makes them once for all steps.
struct RotaryCache {
  int64_t position = -1, length = 0;
  RotaryTables tables;
};

struct WavefrontOptions {
  int64_t batch = 1;  // B
  Rematerialization rematerialization = Rematerialization::kUnits;
  int64_t vocabulary_tile = 8192;
  double loss_scale = 1;  // 1 / valid targets of the whole step: losses are summed
  bool statistics = false;
  RotaryCache* rotary = nullptr;  // of one model and device; outlives the runner. Null: none
  // Called with what the backward pass of a unit gave: the gradient of the unit's x and the adjoint
  // of the carry that it read (none for the first slice). May be empty.
  std::function<void(const Unit& unit, const Tensor& dx, const std::vector<Tensor>& carry_adjoint)>
      on_backward;
};

// Runs units in the order a schedule gives. Not thread-safe; one thread per rank. Nothing in a pass
// waits for the device: losses and statistics are added up there and read when they are asked for.
class UnitRunner : public UnitBody {
 public:
  // `gradients` (same layout as `parameters`) is added to by Backward; null: forward only, nothing
  // is kept for a backward pass. All references outlive the runner.
  UnitRunner(const ModelSpec& spec, const ParameterSet& parameters, TokenSource& source, int layers,
             const WavefrontOptions& options, ParameterSet* gradients);
  ~UnitRunner() override;

  std::vector<Tensor> Forward(const Unit& unit, std::vector<Tensor> carry) override;
  std::vector<Tensor> Backward(const Unit& unit, std::vector<Tensor> carry_adjoint) override;

  // Losses of a slice's tokens [B * n, 1], 0 where masked: after its last layer has run forward, or
  // backward where there are gradients, with which they come.
  const Tensor& Losses(int micro_batch, int64_t slice) const;
  // Sum over all losses so far, in f64; waits for the device.
  double LossSum() const { return loss_sum_.defined() ? loss_sum_.Item() : 0; }
  // The same on the device, f64 []; undefined before the first.
  const Tensor& DeviceLossSum() const { return loss_sum_; }
  // Means per layer over the units run forward so far (options.statistics). Waits for the device.
  std::vector<BlockStatistics> Statistics() const;

 private:
  struct Call;      // a block or head call recorded on a tape
  struct InFlight;  // a slice, from its first unit forward to its last backward
  struct Key {
    int micro_batch;
    int64_t slice;
    auto operator<=>(const Key&) const = default;
  };

  bool keeps(Rematerialization policy) const {
    return gradients_ != nullptr && options_.rematerialization == policy;
  }
  InFlight& Begin(const Key& key);
  void MakeRotary(InFlight& slice) const;
  Tensor Embed(const SliceTokens& tokens) const;
  std::unique_ptr<Call> RunLayer(int layer, const Tensor& x, const std::vector<Tensor>& carry,
                                 const SliceContext& context, bool taped, BlockProbe* probe);
  Var NormalizeRows(const Var& x, const UnitParameters& outside) const;
  void RunHead(const Key& key, InFlight& slice);
  Tensor DifferentiateHead(const Key& key, InFlight& slice);
  void AddLosses(const Key& key, const Tensor& losses);
  void FinishForward(const Key& key, InFlight& slice);
  void RunAgain(InFlight& slice);
  // Gradients of a recorded call; those of the parameters are added up, the rest is returned as
  // the gradient of x and the adjoint of the carry.
  Tensor Differentiate(Call& call, const Tensor& dy, std::vector<Tensor> carry_adjoint,
                       std::vector<Tensor>& carry_in_adjoint);
  void AddGradient(int parameter, const Tensor& gradient);
  void AddStatistics(int layer, const Tensor& numbers);

  const ModelSpec& spec_;
  const ParameterSet& parameters_;
  TokenSource& source_;
  int layers_;
  WavefrontOptions options_;
  int head_;  // index of the parameter
  ParameterSet* gradients_;
  std::map<Key, std::unique_ptr<InFlight>> slices_;
  std::map<Key, Tensor> losses_;
  Tensor loss_sum_;                 // f64 []
  std::vector<Tensor> statistics_;  // sums, f64 [kStatistics]; undefined without any
  std::vector<int64_t> statistics_units_;
};

}  // namespace mnemo
