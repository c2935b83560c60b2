#include "src/model/plan_inputs.h"

#include <algorithm>

#include "src/core/cpu/caching_allocator.h"
#include "src/core/peers.h"
#include "src/model/carry.h"
#include "src/model/counted_step.h"
#include "src/model/door.h"
#include "src/model/execution.h"
#include "src/model/flops.h"
#include "src/model/parameters.h"
#include "src/model/tensor_split.h"
#include "src/parallel/communicator.h"

namespace mnemo {
namespace {

constexpr int64_t kCacheLimit = CachingAllocator::kDefaultCacheLimit;
// Resident in a rank of mpirun that has read its configuration, opened its shards and not begun:
// 45 to 53 MiB, measured with the libraries of Debian 12.
constexpr int64_t kProcessBytes = int64_t{48} << 20;

// Slices after which a carry no longer grows: the window is full.
int64_t SteadySlices(const ModelSpec& spec, const v1::TrainConfig& train) {
  const int64_t slices = (train.sequence_length() + train.slice() - 1) / train.slice();
  const int64_t window = spec.has_window() ? std::max<int64_t>(spec.window - 1, 1) : 1;
  return std::min(slices, 1 + (window + train.slice() - 1) / train.slice());
}

// One layer tells the work space; two layers and one slice more tell the tapes apart.
void FillUnitSizes(const v1::RunConfig& config, const ModelSpec& spec, PlanInputs& in) {
  const auto count = [&](int layers, int64_t slices) {
    return CountStep(config, spec, layers, slices);
  };
  const int64_t slices = SteadySlices(spec, config.train());
  const CountedBytes one = count(1, slices);
  int64_t in_hand = one.kept;
  if (in.rematerialize == v1::SLICES) in_hand += 2 * in.input_bytes;  // the layer's, the head's
  in.workspace_bytes = std::max<int64_t>(0, one.peak - in_hand);
  if (ComputeDevice(config.execution()) == Device()) {
    in.process_bytes = kProcessBytes;
    in.cache_bytes = std::clamp<int64_t>(one.held - one.peak, 0, kCacheLimit);
  }
  if (in.rematerialize != v1::KEEP_ALL) return;
  const int64_t two = count(2, slices).kept;
  const int64_t one_less = slices > 1 ? count(1, slices - 1).kept : 0;
  const int64_t two_less = slices > 1 ? count(2, slices - 1).kept : 0;
  in.unit_tape_bytes = (two - two_less) - (one.kept - one_less);
  in.head_tape_bytes = one.kept - one_less - in.unit_tape_bytes;
}

void FillGrid(const v1::TrainConfig& train, PlanInputs& in) {
  in.sequence_length = train.sequence_length();
  in.slice = std::min(train.slice(), train.sequence_length());
  in.sequences = train.sequences();
  in.micro_batches = train.micro_batches();
  in.accumulation = train.accumulation();
  in.rematerialize = train.rematerialize();
}

// Peers that are not there; what they would add up has no contents.
class CountedPeers : public Peers {
 public:
  explicit CountedPeers(int count) : count_(count) {}
  int count() const override { return count_; }
  int index() const override { return 0; }
  void Sum(const Tensor&) override {}

 private:
  int count_;
};

}  // namespace

absl::StatusOr<PlanInputs> MakePlanInputs(const v1::RunConfig& config) {
  const ModelSpec whole = MakeSpec(config.model());
  const int tp = std::max(1, config.parallel().tp());
  MNEMO_RETURN_IF_ERROR(CheckTensorSplit(whole, tp));
  // The first rank of the tp axis holds no less than the others.
  CountedPeers peers(tp);
  const ModelSpec spec = SplitSpec(whole, {tp, 0, tp > 1 ? &peers : nullptr});
  const v1::TrainConfig& train = config.train();
  const DType dtype = ComputeDType(config.execution());
  const int64_t size = SizeOf(dtype), wide = SizeOf(WideType(dtype));
  const bool host = ComputeDevice(config.execution()) == Device();
  PlanInputs in;
  FillGrid(train, in);
  in.whole_sequences = spec.full_attention();
  in.zero = config.parallel().zero();
  in.tp = tp;
  in.layers = spec.layers;
  in.parameters = CountParameters(spec);
  const int64_t own = CountOwnParameters(spec);
  in.weight_bytes = own * wide;
  in.compute_copy_bytes = size < wide ? CountNarrowParameters(spec) * size : 0;
  in.gradient_bytes = own * wide;
  in.optimizer_bytes = own * 2 * wide;
  in.snapshot_bytes = SavesBehindTraining(train) ? in.weight_bytes + in.optimizer_bytes : 0;
  in.on_host = host;
  in.input_bytes = train.sequences() * in.slice * spec.width * size;
  in.carry_bytes = CarryBytes(spec, train.sequences(), dtype);
  in.token_bytes = train.sequences() * train.sequence_length() * (2 * SizeOf(DType::kI32) + wide);
  if (host) {
    in.read_ahead_bytes = std::max(1, config.data().prefetch()) * train.sequences() *
                          train.sequence_length() * 2 * SizeOf(DType::kI32);
  }
  FillUnitSizes(config, spec, in);
  if (host && tp > 1) in.workspace_bytes += ReductionBufferBytes(in.input_bytes / size * wide, tp);
  const ForwardFlops flops = CountForwardFlops(spec, train.sequence_length());
  in.forward_flops_per_token = flops.total();
  in.model_flops_per_token = ModelFlops(flops);
  return in;
}

absl::StatusOr<v1::Plan> PlanRun(const v1::RunConfig& config, int ranks,
                                 const PlanOptions& options) {
  return AtTheDoor([&]() -> absl::StatusOr<v1::Plan> {
    MNEMO_ASSIGN_OR_RETURN(const PlanInputs inputs, MakePlanInputs(config));
    return ChoosePlan(inputs, config.parallel(), ranks, options);
  });
}

}  // namespace mnemo
