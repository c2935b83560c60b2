// The fused ops of a model's training step, forward and backward: parts of BenchModelOps.
#include <numeric>
#include <utility>

#include "src/core/fused/attention.h"
#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/gates.h"
#include "src/core/fused/layers.h"
#include "src/core/random.h"
#include "src/job/memory_scan_bench.h"
#include "src/job/op_timer.h"

namespace mnemo {
namespace {

constexpr double kEpsilon = 1e-6;

class FusedBench {
 public:
  FusedBench(const ModelOpShapes& s, OpTimer& timer)
      : s_(s), timer_(timer), rows_{s.batch, s.length, s.width} {}

  void Run() {
    Attend("attention", 0);
    Attend("attention, window", s_.window);
    Layers();
    Loss();
    Memory();
  }

 private:
  using Input = OpTimer::Input;
  Tensor Rows() { return timer_.Random(rows_, kRows); }
  Tensor Heads(int64_t heads) { return SplitHeads(Rows(), heads).value(); }

  void Attend(const std::string& name, int64_t window) {
    const std::vector<Input> inputs = {{Heads(s_.heads)}, {Heads(s_.heads)}, {Heads(s_.heads)}};
    const double length = static_cast<double>(s_.length);
    const double seen =
        window == 0 ? length : std::min<double>(length, static_cast<double>(window));
    const double keys = (seen * (seen + 1) / 2 + (length - seen) * seen) / length;
    // Scores and weighted sums; backward dq, dk, dv, and the gradient of the probabilities, with
    // the scores again: five products where forward has two.
    const Tensor& x = inputs[0].value;
    const double product = 2 * Count(x) * keys;
    AttentionMask mask;
    mask.window = window;
    timer_.Fused(name, ToString(x.shape()), inputs, {2 * product, 4 * BytesOf({x})},
                 {5 * product, 8 * BytesOf({x})}, [&](std::span<const Var> in) {
                   return Attention(in[0], {}, {}, {{in[1], in[2], 0}}, mask);
                 });
  }

  void Layers() {
    const Tensor x = Rows();
    const Tensor norm = Tensor::Full({s_.width}, 1, kSums, timer_.device());
    timer_.Fused("rms norm", ToString(x.shape()), {{x}, {norm, true}},
                 {4 * Count(x), 2 * BytesOf({x})}, {8 * Count(x), 3 * BytesOf({x})},
                 [](std::span<const Var> in) { return RmsNorm(in[0], in[1], 1, kEpsilon); });
    const Shape hidden{s_.batch, s_.length, s_.mlp};
    const Tensor a = timer_.Random(hidden, kRows), b = timer_.Random(hidden, kRows);
    timer_.Fused("swiglu", ToString(hidden), {{a}, {b}}, {4 * Count(a), 3 * BytesOf({a})},
                 {9 * Count(a), 5 * BytesOf({a})},
                 [](std::span<const Var> in) { return SwiGlu(in[0], in[1]); });
    Convolve(x);
    Gate(x);
    Turn();
  }

  // theta, eta and alpha.
  void Gate(const Tensor& x) {
    constexpr int kGates = 3;
    const int64_t heads = s_.width / s_.memory_dim;
    std::vector<Input> inputs = {{x}};
    for (int i = 0; i < kGates; ++i) {
      inputs.push_back({timer_.Random({heads, s_.width}, kSums, 0.02), true});
      inputs.push_back({timer_.Random({heads}, kSums), true});
    }
    const double values = static_cast<double>(kGates * heads * s_.batch * s_.length);
    const double product = 2 * values * static_cast<double>(s_.width);
    const double gates = values * static_cast<double>(SizeOf(kSums));
    timer_.Fused("gates", ToString(x.shape()), inputs, {product, BytesOf({x}) + gates},
                 {2 * product, 2 * BytesOf({x}) + 2 * gates}, [](std::span<const Var> in) {
                   const GateWeights weights[] = {
                       {in[1], in[2], 0.015}, {in[3], in[4], 1}, {in[5], in[6], 0.01}};
                   return HeadGates(in[0], weights)[0];
                 });
  }

  void Convolve(const Tensor& x) {
    constexpr int64_t kTaps = 4;
    const Tensor before = Tensor::Zeros({s_.batch, kTaps - 1, s_.width}, kRows, timer_.device());
    const Tensor weight = timer_.Random({s_.width, kTaps}, kSums, 0.5);
    const int64_t heads = s_.width / s_.memory_dim;
    timer_.Fused("conv, silu, norm", ToString(x.shape()), {{before}, {x}, {weight, true}},
                 {(2 * kTaps + 6) * Count(x), 2 * BytesOf({x})},
                 {(4 * kTaps + 12) * Count(x), 3 * BytesOf({x})}, [heads](std::span<const Var> in) {
                   return ConvSiluNorm(in[0], in[1], in[2], heads, kEpsilon);
                 });
  }

  void Turn() {
    const Tensor x = Heads(s_.heads);
    std::vector<int64_t> positions(s_.length);
    std::iota(positions.begin(), positions.end(), int64_t{0});
    const RotaryTables tables =
        MakeRotaryTables(positions, 1, x.dim(-1), 10000, kRows, timer_.device());
    const OpWork work{3 * Count(x), 2 * BytesOf({x}) + BytesOf({tables.cos, tables.sin})};
    timer_.Fused("rotate", ToString(x.shape()), {{x}}, work, work,
                 [&tables](std::span<const Var> in) { return Rotate(in[0], tables); });
  }

  void Loss() {
    const int64_t tokens = s_.batch * s_.length;
    const Tensor x = timer_.Random({tokens, s_.width}, kRows);
    const Tensor head = timer_.Random({s_.vocabulary, s_.width}, kRows, 0.02);
    const RandomStream random(1, 0, "bench");
    std::vector<int32_t> ids(tokens);
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(random.Below(i, static_cast<uint64_t>(s_.vocabulary)));
    }
    const Tensor targets =
        Tensor::FromHost(std::span<const int32_t>(ids), {tokens}, timer_.device());
    const double product = 2 * Count(x) * static_cast<double>(s_.vocabulary);
    // The head's gradient is added to an f32 sum.
    const double sum = 2 * Count(head) * static_cast<double>(SizeOf(kSums));
    const std::string shapes = ToString(x.shape()) + " x " + ToString(head.shape());
    timer_.Fused("cross entropy", shapes, {{x}, {head, true}}, {product, BytesOf({x, head})},
                 {2 * product, 2 * BytesOf({x}) + BytesOf({head}) + sum},
                 [&](std::span<const Var> in) {
                   return CrossEntropy(in[0], in[1], targets, s_.vocabulary_tile);
                 });
    timer_.FusedWithGradients(
        "cross entropy", shapes, {3 * product, 2 * BytesOf({x}) + BytesOf({head}) + sum / 2}, [&] {
          (void)CrossEntropyWithGradients(x, head, targets, s_.vocabulary_tile,
                                          1 / static_cast<double>(tokens));
        });
  }

  void Memory() {
    MemoryScanCase scan;
    scan.rule.head_dim = s_.memory_dim;
    scan.rule.hidden = s_.memory_hidden;
    scan.rule.chunk = s_.chunk;
    scan.rule.activation = MemoryActivation::kGelu;
    scan.batch = s_.batch;
    scan.heads = s_.width / s_.memory_dim;
    scan.tokens = s_.length;
    TimeMemoryScan("memory scan", scan, LeastWork(scan), timer_);
  }

  const ModelOpShapes& s_;
  OpTimer& timer_;
  Shape rows_;
};

}  // namespace

void BenchFusedOps(const ModelOpShapes& s, OpTimer& timer) { FusedBench(s, timer).Run(); }

}  // namespace mnemo
