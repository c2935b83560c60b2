#include "src/job/step_bench.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "src/core/status.h"
#include "src/job/memory_check.h"
#include "src/job/random_tokens.h"
#include "src/job/timing.h"
#include "src/job/trainer.h"
#include "src/model/door.h"
#include "src/model/flops.h"
#include "src/model/plan_inputs.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Seconds that each phase of a step takes, by the order in which phases first begin.
class PhaseClock {
 public:
  explicit PhaseClock(Device device) : device_(device) {}

  void Enter(const char* phase) {
    Leave();
    current_ = phase;
  }
  // Ends the phase under way, when the device has done what it was given.
  void Leave() {
    (void)Tensor::Zeros({}, DType::kF32, device_).Item();
    const double seconds = Since(begin_);
    begin_ = Clock::now();
    if (current_.empty()) return;
    auto found = std::find_if(sums_.begin(), sums_.end(),
                              [&](const auto& entry) { return entry.first == current_; });
    if (found == sums_.end()) found = sums_.insert(sums_.end(), {current_, 0.0});
    found->second += seconds;
    current_.clear();
  }
  std::vector<std::pair<std::string, double>> Take() { return std::exchange(sums_, {}); }

 private:
  Device device_;
  Clock::time_point begin_ = Clock::now();
  std::string current_;
  std::vector<std::pair<std::string, double>> sums_;  // of the step under way
};

absl::StatusOr<StepBenchResult> TimeSteps(const v1::RunConfig& config,
                                          const StepBenchOptions& options) {
  RandomTokens source(config);
  MNEMO_ASSIGN_OR_RETURN(const v1::Plan plan, PlanRun(config));
  const MemoryCheck check{.config_name = "the configuration", .can_be_left_out = false};
  MNEMO_RETURN_IF_ERROR(CheckMemory(config, plan, check));
  MNEMO_RETURN_IF_ERROR(ReserveMemory(check.config_name, config, plan));
  MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, Trainer::Create(config, source));
  PhaseClock clock(ComputeDevice(config.execution()));
  if (options.phases) {
    trainer->OnPhase([&clock](const char* phase) { clock.Enter(phase); });
  }
  StepBenchResult result;
  std::vector<std::vector<double>> phases;
  for (int step = 0; step < options.warmup + options.steps; ++step) {
    const Clock::time_point begin = Clock::now();
    MNEMO_RETURN_IF_ERROR(trainer->Step(result.last, /*statistics=*/false));
    clock.Leave();  // the update may still be under way
    const double seconds = Since(begin);
    const auto parts = clock.Take();
    if (step < options.warmup) continue;
    result.seconds.push_back(seconds);
    result.phases.resize(parts.size());
    phases.resize(parts.size());
    for (size_t i = 0; i < parts.size(); ++i) {
      result.phases[i].first = parts[i].first;
      phases[i].push_back(parts[i].second);
    }
  }
  for (size_t i = 0; i < phases.size(); ++i) result.phases[i].second = Median(phases[i]);
  result.median = Median(result.seconds);
  result.tokens = result.last.tokens();
  result.model_flops =
      ModelFlops(CountForwardFlops(trainer->spec(), config.train().sequence_length())) *
      static_cast<double>(result.tokens);
  result.planned_bytes = TensorBytes(plan.memory());
  result.peak_bytes = trainer->peak_bytes();
  result.parameters = CountParameters(trainer->spec());
  return result;
}

}  // namespace

absl::StatusOr<StepBenchResult> BenchStep(const v1::RunConfig& config,
                                          const StepBenchOptions& options) {
  return AtTheDoor([&] { return TimeSteps(config, options); });
}

}  // namespace mnemo
