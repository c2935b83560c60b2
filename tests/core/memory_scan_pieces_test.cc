// A kernel of the memory scan that runs a call in pieces, against the composition of the whole
// call: exact, so the derivatives of what is cut and joined are too.
#include "src/core/cuda/memory_scan_pieces.h"

#include <gtest/gtest.h>

#include "src/core/backend.h"
#include "src/core/cuda/memory_scan_op.h"
#include "tests/core/memory_problem.h"

namespace mnemo::testing {
namespace {

using cuda::MemoryScanPiece;

// f64: sums of some hundred terms, in another order.
constexpr double kExact = 1e-11;

template <typename T>
std::vector<Var> Flatten(const MemoryRule& rule, T object) {
  std::vector<Var> list;
  ForEachVar(rule, object, [&](Var& x) { list.push_back(x); });
  return list;
}

MemoryScanResult RunPiece(const MemoryScanPiece& piece, std::span<const Var> inputs) {
  MemoryScanResult result;
  result.state.open.count = inputs[0].dim(2) % piece.rule.chunk;
  const std::vector<Var> list = MemoryScanOp().Compose(inputs, {piece.rule, 0, piece.resets});
  size_t next = 0;
  ForEachVar(piece.rule, result, [&](Var& x) { x = list[next++]; });
  result.state.open = {};
  return result;
}

MemoryScanResult ForwardPiece(const MemoryScanPiece& piece, const Tensor& y, Tensor* saved) {
  const MemoryScanResult result = RunPiece(piece, Flatten(piece.rule, piece.inputs));
  Backend::For(y.device()).Copy(result.y.value(), y);
  if (saved != nullptr) *saved = Tensor::Zeros({1}, DType::kF64);
  return result;
}

void BackwardPiece(const MemoryScanPiece& piece, const Tensor& saved, const Tensor& dy,
                   const MemoryState& dstate, MemoryScanInputs& gradients) {
  EXPECT_EQ(saved.shape(), Shape{1});
  Tape tape;
  std::vector<Var> leaves;
  for (const Var& x : Flatten(piece.rule, piece.inputs)) leaves.push_back(tape.Leaf(x.value()));
  const MemoryScanResult result = RunPiece(piece, leaves);
  std::vector<Var> outputs{result.y};
  std::vector<Tensor> adjoints{dy};
  for (const Var& x : Flatten(piece.rule, result.state)) outputs.push_back(x);
  for (const Var& x : Flatten(piece.rule, dstate)) adjoints.push_back(x.value());
  std::vector<Tensor> list = tape.Gradient(outputs, adjoints, leaves);
  for (size_t i = 0; i < list.size(); ++i) {  // a kernel writes them all
    const Tensor& leaf = leaves[i].value();
    if (!list[i].defined()) list[i] = Tensor::Zeros(leaf.shape(), leaf.dtype());
  }
  MemoryScanInputs all;
  size_t next = 0;
  ForEachVar(piece.rule, all, [&](Var& x) { x = Var(list[next++]); });
  for (const auto x : {&MemoryTokens::q, &MemoryTokens::k, &MemoryTokens::v}) {
    Backend::For(dy.device()).Copy((all.tokens.*x).value(), (gradients.tokens.*x).value());
    all.tokens.*x = gradients.tokens.*x;
  }
  gradients = all;
}

class MemoryScanPieces : public ::testing::Test {
 protected:
  void Use() {
    static const cuda::MemoryScanKernel kernel{ForwardPiece, BackwardPiece};
    MemoryScanOp().Register(
        DeviceType::kCpu,
        {.accepts = [](std::span<const Tensor>,
                       const MemoryScanAttributes& a) { return a.open_count == 0; },
         .forward =
             [](std::span<const Tensor> inputs, const MemoryScanAttributes& attributes,
                std::vector<Tensor>* saved) {
               return cuda::ScanForward(kernel, inputs, attributes, saved);
             },
         .backward =
             [](std::span<const Tensor> inputs, const MemoryScanAttributes& attributes,
                std::span<const Tensor> saved, std::span<const Tensor> output_gradients,
                const std::vector<bool>&) {
               return cuda::ScanBackward(kernel, inputs, attributes, saved, output_gradients);
             }});
  }
  void TearDown() override { MemoryScanOp().Unregister(DeviceType::kCpu); }

  // Calls of these lengths, each going on where the last ended, inside a chunk or not.
  void Compare(const MemoryRule& rule, const std::vector<int64_t>& lengths, bool resets) {
    int64_t tokens = 0;
    for (const int64_t length : lengths) tokens += length;
    SCOPED_TRACE(fmt::format("{}, {} tokens", Describe(rule), tokens));
    const MemoryProblem problem = MakeMemoryProblem(rule, tokens, resets, 5);
    MemoryScanOp().Unregister(DeviceType::kCpu);
    const Evaluation want = Evaluate(ScanFunction(problem, lengths), problem.inputs);
    Use();
    const FusedCount before = FusedCounts()["memory_scan"];
    const Evaluation got = Evaluate(ScanFunction(problem, lengths), problem.inputs);
    EXPECT_GT(FusedCounts()["memory_scan"].kernel, before.kernel);
    for (size_t i = 0; i < want.outputs.size(); ++i) {
      EXPECT_LT(RelativeError(got.outputs[i], want.outputs[i]), kExact) << "output " << i;
    }
    for (size_t i = 0; i < want.gradients.size(); ++i) {
      EXPECT_LT(RelativeError(got.gradients[i], want.gradients[i]), kExact) << problem.names[i];
    }
  }
};

MemoryRule Rule(int depth) {
  MemoryRule rule;
  rule.depth = depth;
  rule.head_dim = 5;
  rule.hidden = 7;
  rule.chunk = 4;
  return rule;
}

TEST_F(MemoryScanPieces, EndInsideAChunk) {
  for (const int depth : {1, 2}) {
    const MemoryRule rule = Rule(depth);
    Compare(rule, {8}, false);
    Compare(rule, {11}, false);
    Compare(rule, {3}, false);
    Compare(rule, {9, 3, 6}, false);  // the second call is composed and ends the chunk
    Compare(rule, {2, 1}, false);
  }
}

TEST_F(MemoryScanPieces, WithOptions) {
  MemoryRule rule = Rule(2);
  rule.forgetting = Forgetting::kTowardsInitial;
  rule.clamp = 0.8;
  rule.biases = true;
  rule.row_scale = true;
  Compare(rule, {11}, true);
  Compare(rule, {6, 2, 7}, true);
  Compare(rule, {2}, true);
  rule.layer_norm = false;
  rule.momentum = false;
  Compare(rule, {6, 2, 7}, true);
  rule.forgetting = Forgetting::kNever;
  Compare(rule, {7}, false);
}

TEST(MemoryScanSavedTest, RetainsWhereTheBackwardPassFollowsAtOnce) {
  MemoryScanShape shape;
  shape.batch = 1, shape.heads = 2, shape.tokens = 150;  // three chunks of two heads
  const Tensor later = cuda::MemoryScanSaved::Empty(shape, {});
  EXPECT_EQ(later.bytes(), static_cast<int64_t>(MemoryScanCheckpointBytes(shape)));
  EXPECT_EQ(cuda::MemoryScanSaved(later).checkpoints(), later.data<float>());
  EXPECT_EQ(cuda::MemoryScanSaved(later).retained(), nullptr);

  const BackwardFollows follows;
  const Tensor at_once = cuda::MemoryScanSaved::Empty(shape, {});
  const cuda::MemoryScanSaved saved(at_once);
  EXPECT_EQ(saved.checkpoints(), nullptr);
  const auto begin = reinterpret_cast<uintptr_t>(at_once.raw());
  const auto address = reinterpret_cast<uintptr_t>(saved.retained());
  EXPECT_EQ(address % 1024, 0u);
  EXPECT_GE(address, begin);
  EXPECT_LE(address + MemoryScanRetainedBytes(shape), begin + at_once.bytes());
  // A state of 128 KiB and a record of 376 KiB a block.
  EXPECT_GE(MemoryScanRetainedBytes(shape), 6 * (128 + 376) * 1024u);
  // What is retained needs no room in the workspaces.
  EXPECT_LT(MemoryScanForwardWorkspace(shape, true), MemoryScanForwardWorkspace(shape, false));
  EXPECT_LT(MemoryScanBackwardWorkspace(shape, true), MemoryScanBackwardWorkspace(shape, false));
}

}  // namespace
}  // namespace mnemo::testing
