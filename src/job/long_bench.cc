#include "src/job/long_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#include "src/core/status.h"
#include "src/job/resident_memory.h"
#include "src/job/shard_source.h"
#include "src/job/trainer.h"
#include "src/model/execution.h"
#include "src/model/plan_inputs.h"
#include "src/parallel/plan.h"
#include "src/parallel/simulate.h"
#include "src/parallel/trace.h"

namespace mnemo {
namespace {

// So many rows are taken to the host at once.
constexpr int64_t kRowsAtOnce = 256;

struct PositionNorm {
  int64_t slice = 0;
  float norm = 0;
};

// Notes what comes out of the backward pass of a rank's units.
class GradientLog {
 public:
  explicit GradientLog(int64_t slices) : positions_(slices), carries_(slices) {}

  void Note(const Unit& unit, const Tensor& dx, const std::vector<Tensor>& carry_adjoint) {
    for (const Tensor& part : carry_adjoint) {
      for (const double x : part.ToDoubles()) carries_[unit.slice] += x * x;
    }
    if (unit.layer > 0) return;
    const int64_t width = dx.dim(dx.rank() - 1), rows = dx.elements() / width;
    const Tensor flat = dx.Contiguous().Reshape({rows, width});
    for (int64_t begin = 0; begin < rows; begin += kRowsAtOnce) {
      const int64_t end = std::min(rows, begin + kRowsAtOnce);
      const std::vector<double> values = flat.Slice(0, begin, end).ToDoubles();
      for (int64_t row = 0; row < end - begin; ++row) {
        double squared = 0;
        for (int64_t i = 0; i < width; ++i) {
          squared += values[row * width + i] * values[row * width + i];
        }
        positions_[unit.slice].push_back(static_cast<float>(std::sqrt(squared)));
      }
    }
  }

  std::vector<PositionNorm> Positions() const {
    std::vector<PositionNorm> list;
    for (size_t s = 0; s < positions_.size(); ++s) {
      for (const float norm : positions_[s]) list.push_back({static_cast<int64_t>(s), norm});
    }
    return list;
  }
  std::vector<double>& carries() { return carries_; }  // squared, by slice; 0: another rank's

 private:
  std::vector<std::vector<float>> positions_;  // by slice
  std::vector<double> carries_;
};

// Lists of all ranks of the group, one after the other.
template <typename T>
absl::StatusOr<std::vector<T>> Gather(Communicator& group, const std::vector<T>& own) {
  static_assert(std::is_trivially_copyable_v<T>);
  MNEMO_ASSIGN_OR_RETURN(
      const std::vector<std::string> texts,
      group.AllGatherStrings({reinterpret_cast<const char*>(own.data()), own.size() * sizeof(T)}));
  std::vector<T> all;
  for (const std::string& text : texts) {
    const size_t count = all.size();
    all.resize(count + text.size() / sizeof(T));
    if (!text.empty()) std::memcpy(all.data() + count, text.data(), text.size());
  }
  return all;
}

double MedianOf(std::vector<float>& values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void Summarize(const std::vector<PositionNorm>& positions, const std::vector<double>& carries,
               LongBenchResult& result) {
  std::vector<std::vector<float>> slices(carries.size());
  std::vector<float> all;
  for (const PositionNorm& position : positions) {
    result.finite &= std::isfinite(position.norm);
    slices[position.slice].push_back(position.norm);
    all.push_back(position.norm);
  }
  std::vector<float> carry_norms;
  for (size_t s = 0; s < slices.size(); ++s) {
    SliceGradient slice;
    for (const float norm : slices[s]) slice.largest = std::max<double>(slice.largest, norm);
    slice.median = MedianOf(slices[s]);
    slice.carry = std::sqrt(carries[s]);
    result.finite &= std::isfinite(slice.carry);
    result.all.largest = std::max(result.all.largest, slice.largest);
    result.slices.push_back(slice);
    if (s > 0) carry_norms.push_back(static_cast<float>(slice.carry));
  }
  result.all.median = MedianOf(all);
  result.all.carry = MedianOf(carry_norms);
}

absl::StatusOr<RankMemory> MemoryNow(int64_t before, int64_t tensors) {
  const std::optional<ResidentMemory> memory = ReadResidentMemory();
  if (!memory) return FailedPrecondition("the kernel does not say what memory this process takes");
  return RankMemory{before > 0 ? before : memory->now, memory->peak, tensors};
}

}  // namespace

double LongBenchResult::PeakOverPlan() const {
  int64_t peak = 0;
  for (const RankMemory& rank : ranks) peak = std::max(peak, rank.resident_peak);
  return static_cast<double>(peak) / static_cast<double>(plan.memory().total());
}

absl::StatusOr<LongBenchResult> BenchLongSequence(const v1::RunConfig& config,
                                                  std::shared_ptr<const TokenSet> tokens,
                                                  Transport& transport) {
  LongBenchResult result;
  MNEMO_ASSIGN_OR_RETURN(result.plan, PlanRun(config, transport.size()));
  MNEMO_ASSIGN_OR_RETURN(const auto ranks, Ranks::Create(transport, MeshOf(result.plan)));
  const ModelSpec spec = MakeSpec(config.model());
  MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(*ranks, config.train()));
  MNEMO_ASSIGN_OR_RETURN(const auto source,
                         ShardSource::Create(config, spec, std::move(tokens), share));
  MNEMO_ASSIGN_OR_RETURN(const RankMemory before, MemoryNow(0, 0));
  MNEMO_ASSIGN_OR_RETURN(const auto trainer, Trainer::Create(config, *source, *ranks));
  GradientLog log(result.plan.step().slices());
  trainer->Observe([&log](const Unit& unit, const Tensor& dx, const std::vector<Tensor>& adjoint) {
    log.Note(unit, dx, adjoint);
  });
  MNEMO_RETURN_IF_ERROR(ranks->world().Barrier());
  const auto begin = std::chrono::steady_clock::now();
  MNEMO_RETURN_IF_ERROR(trainer->Step(result.step, false));
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  MNEMO_ASSIGN_OR_RETURN(const RankMemory memory,
                         MemoryNow(before.resident_before, trainer->peak_bytes()));
  MNEMO_ASSIGN_OR_RETURN(result.ranks, Gather<RankMemory>(ranks->world(), {memory}));

  // From here on memory does not count. Only the first replica's gradients and times are told.
  const bool told = ranks->position().dp == 0 && ranks->position().tp == 0;
  MNEMO_ASSIGN_OR_RETURN(
      const std::vector<PositionNorm> positions,
      Gather(ranks->world(), told ? log.Positions() : std::vector<PositionNorm>()));
  if (!told) std::fill(log.carries().begin(), log.carries().end(), 0);
  MNEMO_RETURN_IF_ERROR(ranks->world().AllReduceSum(std::span<double>(log.carries())));
  Summarize(positions, log.carries(), result);
  MNEMO_ASSIGN_OR_RETURN(auto traces, GatherTraces(ranks->world(), trainer->trace()));
  // The ranks of the first replica: tp is fastest.
  std::vector<std::vector<UnitSpan>> replica;
  for (int sp = 0; sp < ranks->mesh().sp; ++sp) {
    replica.push_back(std::move(traces[ranks->mesh().RankOf({0, sp, 0})]));
  }
  MNEMO_RETURN_IF_ERROR(CheckTraces(ShapeOf(result.plan), replica));
  result.busy = BusyFraction(replica);
  return result;
}

}  // namespace mnemo
