#include "src/model/config_check.h"

#include <algorithm>
#include <initializer_list>
#include <set>

#include "src/core/problem_list.h"
#include "src/core/status.h"
#include "src/model/config_defaults.h"
#include "src/model/config_ranges.h"

namespace mnemo {
namespace {

constexpr double kMaxWeights = 1e13;
constexpr double kMaxStepTokens = 1e12;
constexpr double kMaxSliceElements = 1e13;
// Room for the rounding of a bound that is written down in decimal.
constexpr double kRounding = 1 + 1e-9;

// What must hold between fields. Each check is left out where a field that it reads is itself out
// of range, so that one mistake is one problem.
class Combinations {
 public:
  Combinations(const v1::RunConfig& filled, std::set<std::string> bad, ProblemList& problems)
      : config_(filled), bad_(std::move(bad)), problems_(problems) {}

  void Check() {
    CheckHeads();
    if (HasMemory(model().block())) {
      CheckLinearStability();
      CheckDeepStability();
      CheckForgetting();
    }
    CheckWindows();
    CheckTokenGrid();
    CheckSizes();
    CheckTrain();
    CheckCheckpoints();
    CheckExecution();
  }

 private:
  const v1::ModelConfig& model() const { return config_.model(); }
  const v1::MemoryConfig& memory() const { return config_.model().memory(); }
  const v1::TrainConfig& train() const { return config_.train(); }

  bool InRange(std::initializer_list<const char*> paths) const {
    return std::none_of(paths.begin(), paths.end(),
                        [&](const char* path) { return bad_.contains(path); });
  }

  // Reports `path` unless its value is a multiple of `of`; marks it bad.
  void RequireMultiple(const char* path, int64_t value, const char* of_path, int64_t of) {
    if (!InRange({path, of_path}) || value % of == 0) return;
    const int64_t below = value / of * of;
    problems_.Add("{} = {}: must be a multiple of {} = {}; take {}{}", path, value, of_path, of,
                  below > 0 ? fmt::format("{} or ", below) : "", below + of);
    bad_.insert(path);
  }

  void CheckHeads() {
    RequireMultiple("model.width", model().width(), "model.heads", model().heads());
    if (!HasAttention(model().block()) || !InRange({"model.width", "model.heads"})) return;
    const int64_t head_dim = HeadDim(model());
    if (head_dim % 2 == 0) return;
    problems_.Add(
        "model.heads = {}: gives heads of {}, and rotary positions need an even width per head; "
        "change model.heads or model.width = {}",
        model().heads(), head_dim, model().width());
  }

  // A key repeated through a chunk is written chunk times at one frozen state: the write overshoots
  // and the state grows without bound once rate * chunk exceeds what one step can correct.
  void CheckLinearStability() {
    const bool linear = memory().depth() == 1 && !memory().layer_norm();
    if (!linear || memory().clamp() != 0 || bad_.contains("model.memory.clamp") ||
        !InRange(
            {"model.memory.gates.theta_max", "model.memory.gates.eta_max", "model.memory.chunk"})) {
      return;
    }
    if (!memory().normalize_qk()) {
      problems_.Add(
          "model.memory.normalize_qk = false: keys of any length make a linear memory without "
          "layer "
          "norm diverge; normalise them, or set model.memory.clamp (1 is a start)");
      return;
    }
    const v1::GateConfig& gates = memory().gates();
    const bool adds_up = memory().momentum() && !gates.average_surprise();
    const double rate = adds_up ? gates.theta_max() / (1 - gates.eta_max()) : gates.theta_max();
    const double bound = 1.0 / memory().chunk();
    if (rate <= bound * kRounding) return;
    problems_.Add(
        "model.memory.gates.theta_max = {}: a linear memory without layer norm needs {} <= 1 / "
        "model.memory.chunk = {:.6g}, here it is {:.6g}; lower it to {:.6g}, or set "
        "model.memory.clamp (1 is a start)",
        gates.theta_max(), adds_up ? "theta_max / (1 - eta_max)" : "theta_max", bound, rate,
        adds_up ? bound * (1 - gates.eta_max()) : bound);
  }

  void CheckDeepStability() {
    if (memory().depth() < 2 || memory().layer_norm() || memory().clamp() != 0) return;
    if (!InRange({"model.memory.depth", "model.memory.clamp"})) return;
    problems_.Add(
        "model.memory.layer_norm = false: a memory of depth {} without it diverges; turn it on, or "
        "set model.memory.clamp (1 is a start)",
        memory().depth());
  }

  void CheckForgetting() {
    if (memory().forget_towards() == v1::NEVER || bad_.contains("model.memory.gates.alpha_max")) {
      return;
    }
    const v1::GateConfig& gates = memory().gates();
    auto below = [&](const char* path, double value) {
      if (!InRange({path}) || value < gates.alpha_max()) return;
      problems_.Add("{} = {}: must be below model.memory.gates.alpha_max = {}", path, value,
                    gates.alpha_max());
    };
    below("model.memory.gates.alpha_first", gates.alpha_first());
    below("model.memory.gates.alpha_last", gates.alpha_last());
  }

  void CheckWindows() {
    const v1::AttentionConfig& attention = model().attention();
    const v1::Block block = model().block();
    if (block == v1::MAC && attention.segment() == 0) {
      problems_.Add(
          "model.attention.segment is missing: MAC attends within segments; give their tokens, a "
          "multiple of model.memory.chunk = {} (512 is usual)",
          memory().chunk());
      bad_.insert("model.attention.segment");
    }
    if ((block == v1::MAG || block == v1::MAL) && attention.window() == 0) {
      problems_.Add(
          "model.attention.window is missing: {} attends to a sliding window; give its tokens "
          "(2048 is usual)",
          v1::Block_Name(block));
    }
    const bool full = block == v1::TRANSFORMER && attention.window() == 0;
    if (full && train().slice() != train().sequence_length() &&
        InRange({"train.slice", "train.sequence_length", "model.attention.window"})) {
      problems_.Add(
          "train.slice = {}: full attention cannot be cut into slices; remove it (train."
          "sequence_length = {} is then one slice), or set model.attention.window",
          train().slice(), train().sequence_length());
      bad_.insert("train.slice");
    }
  }

  // chunk | segment | slice | sequence. A slice that was left out is the sequence, and then the
  // sequence is what the message should name.
  void CheckTokenGrid() {
    const int64_t slice = train().slice(), length = train().sequence_length();
    const int64_t segment = model().attention().segment();
    const char* path = slice == length ? "train.sequence_length" : "train.slice";
    if (model().block() == v1::MAC) {
      RequireMultiple("model.attention.segment", segment, "model.memory.chunk", memory().chunk());
      RequireMultiple(path, slice, "model.attention.segment", segment);
    } else if (HasMemory(model().block())) {
      RequireMultiple(path, slice, "model.memory.chunk", memory().chunk());
    }
    RequireMultiple("train.sequence_length", length, "train.slice", slice);
  }

  void CheckSizes() {
    const double width = model().width();
    const double weights = model().layers() * width * (3.0 * model().mlp_hidden() + 6.0 * width) +
                           2.0 * model().vocabulary() * width;
    if (weights > kMaxWeights && InRange({"model.layers", "model.width", "model.mlp_hidden"})) {
      problems_.Add(
          "model.width = {}: with model.layers = {} about {:.2g} weights, above {:.0g}; take fewer "
          "layers or a smaller width",
          model().width(), model().layers(), weights, kMaxWeights);
    }
    if (!InRange({"train.sequence_length", "train.slice", "train.sequences", "train.micro_batches",
                  "train.accumulation", "model.width", "model.mlp_hidden"})) {
      return;
    }
    const double tokens = static_cast<double>(train().sequence_length()) * train().sequences() *
                          train().micro_batches() * train().accumulation();
    if (tokens > kMaxStepTokens) {
      problems_.Add(
          "train.sequence_length = {}: times sequences, micro_batches and accumulation {:.2g} "
          "tokens a step, above {:.0g}; take shorter or fewer sequences",
          train().sequence_length(), tokens, kMaxStepTokens);
    }
    const double elements = static_cast<double>(train().slice()) * train().sequences() *
                            std::max<double>(width, model().mlp_hidden());
    if (elements > kMaxSliceElements) {
      problems_.Add(
          "train.slice = {}: one tensor of a slice would hold {:.2g} numbers, above {:.0g}; take "
          "shorter slices",
          train().slice(), elements, kMaxSliceElements);
    }
  }

  void CheckTrain() {
    const v1::OptimizerConfig& optimizer = train().optimizer();
    if (!InRange({"train.steps", "train.optimizer.warmup_steps", "train.optimizer.decay_steps"})) {
      return;
    }
    if (optimizer.warmup_steps() > train().steps()) {
      problems_.Add(
          "train.optimizer.warmup_steps = {}: must be at most train.steps = {}; take more steps, "
          "or "
          "fewer of warm-up (--set train.optimizer.warmup_steps=N, 0: none)",
          optimizer.warmup_steps(), train().steps());
    } else if (optimizer.decay_steps() < optimizer.warmup_steps()) {
      problems_.Add(
          "train.optimizer.decay_steps = {}: must be at least train.optimizer.warmup_steps = {}",
          optimizer.decay_steps(), optimizer.warmup_steps());
    }
  }

  void CheckCheckpoints() {
    if (!train().checkpoint_keep_best() || !InRange({"train.evaluate_every"})) return;
    if (train().evaluate_every() > 0 && config_.data().evaluation_size() > 0) return;
    problems_.Add(
        "train.checkpoint_keep_best = true: no held-out loss is measured on the way; give "
        "data.evaluation (--eval-shards) and train.evaluate_every");
  }

  void CheckExecution() {
    const v1::ExecutionConfig& execution = config_.execution();
    if (!InRange({"execution.device", "execution.precision"})) return;
    if (execution.device() == v1::CUDA && execution.precision() == v1::F64) {
      problems_.Add("execution.precision = F64: CUDA computes in BF16 or F32; take one of them");
    }
    if (execution.strict_fused() && !execution.fused()) {
      problems_.Add(
          "execution.strict_fused = true: contradicts execution.fused = false; remove one of them");
    }
  }

  const v1::RunConfig& config_;
  std::set<std::string> bad_;
  ProblemList& problems_;
};

void CheckPreset(const v1::MemoryConfig& memory, ProblemList& problems) {
  for (const std::string& path : FieldsAgainstPreset(memory)) {
    problems.Add(
        "model.memory.{}: model.memory.preset = {} fixes this field; remove it, or leave the "
        "preset "
        "out and write all fields",
        path, v1::Preset_Name(memory.preset()));
  }
}

void CheckRequiredAndNames(const v1::RunConfig& config, ProblemList& problems) {
  if (config.model().block() == v1::BLOCK_UNSPECIFIED) {
    problems.Add("model.block is missing: one of LMM, MAC, MAG, MAL, TRANSFORMER");
  }
  auto check = [&](const char* path, const auto& names) {
    if (std::any_of(names.begin(), names.end(), [](const auto& name) { return name.empty(); })) {
      problems.Add("{}: holds an empty path; remove it", path);
    }
  };
  check("data.shards", config.data().shards());
  check("data.evaluation", config.data().evaluation());
}

}  // namespace

absl::Status CheckConfig(const v1::RunConfig& written, const std::string& name) {
  ProblemList problems;
  std::set<std::string> bad;
  CheckRanges(written, problems, bad);
  CheckRequiredAndNames(written, problems);
  CheckPreset(written.model().memory(), problems);
  v1::RunConfig filled = written;
  FillDefaults(filled);
  Combinations(filled, std::move(bad), problems).Check();
  return problems.ToStatus(name);
}

absl::StatusOr<v1::RunConfig> EffectiveConfig(const v1::RunConfig& written,
                                              const std::string& name) {
  MNEMO_RETURN_IF_ERROR(CheckConfig(written, name));
  v1::RunConfig effective = written;
  FillDefaults(effective);
  return effective;
}

}  // namespace mnemo
