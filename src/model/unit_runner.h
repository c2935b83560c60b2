// A training step's units: forward and backward of one wavefront (M micro-batches over all slices
// of their sequences), with rematerialisation.
#pragma once

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
  Tensor tokens;   // i32 [B * n]
  Tensor targets;  // i32 [B * n], -1 where masked
  SliceContext context;
};

// Gives the tokens of (micro-batch, slice); called at least once per slice and pass.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual SliceTokens Get(int micro_batch, int64_t slice) = 0;
};

struct WavefrontOptions {
  int64_t batch = 1;  // B
  Rematerialization rematerialization = Rematerialization::kUnits;
  int64_t vocabulary_tile = 8192;
  double loss_scale = 1;  // 1 / valid targets of the whole step: losses are summed
  bool statistics = false;
};

// Runs units in the order a schedule gives. Not thread-safe; one thread per rank.
class UnitRunner : public UnitBody {
 public:
  // `gradients` (same layout as `parameters`) is added to by Backward; null: forward only, nothing
  // is kept for a backward pass. All references outlive the runner.
  UnitRunner(const ModelSpec& spec, const ParameterSet& parameters, TokenSource& source, int layers,
             const WavefrontOptions& options, ParameterSet* gradients);
  ~UnitRunner() override;

  std::vector<Tensor> Forward(const Unit& unit, std::vector<Tensor> carry) override;
  std::vector<Tensor> Backward(const Unit& unit, std::vector<Tensor> carry_adjoint) override;

  // Losses of a slice's tokens [B * n, 1], 0 where masked; after its last layer has run.
  const Tensor& Losses(int micro_batch, int64_t slice) const;
  // Sum over everything run so far, in f64.
  double LossSum() const { return loss_sum_; }
  // Per layer, over the units run so far (options.statistics).
  const std::vector<BlockStatistics>& Statistics() const { return statistics_; }

 private:
  struct Kept;  // what a unit keeps for its backward pass
  struct Key {
    int micro_batch;
    int64_t slice;
    auto operator<=>(const Key&) const = default;
  };
  struct InFlight;  // a slice between its first and last unit

  const ModelSpec& spec_;
  const ParameterSet& parameters_;
  TokenSource& source_;
  int layers_;
  WavefrontOptions options_;
  ParameterSet* gradients_;
  std::map<Key, std::unique_ptr<InFlight>> slices_;
  std::map<Key, Tensor> losses_;
  double loss_sum_ = 0;
  std::vector<BlockStatistics> statistics_;
};

}  // namespace mnemo
