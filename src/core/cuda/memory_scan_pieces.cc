#include "src/core/cuda/memory_scan_pieces.h"

#include <utility>

#include "src/core/backend.h"
#include "src/core/cuda/layout.h"
#include "src/core/ops.h"

namespace mnemo::cuda {
namespace {

Tensor EmptyPerHeadLike(const Tensor& x) {
  return EmptyPerHead(x.dim(0), x.dim(1), x.dim(2), x.dim(3), x.dtype(), x.device());
}

Tensor Rows(const Tensor& x, int64_t begin, int64_t end) {
  return begin == 0 && end == x.dim(2) ? x : x.Slice(2, begin, end);
}

Var Sum(const Var& a, const Var& b) {
  if (!a.defined()) return b;
  return b.defined() ? Add(a, b) : a;
}

// Where a call is cut.
class Cut {
 public:
  Cut(std::span<const Tensor> list, const MemoryScanAttributes& attributes)
      : rule_(attributes.rule), resets_(attributes.resets) {
    size_t next = 0;
    ForEachVar(rule_, inputs_, [&](Var& x) { x = Var(list[next++]); });
    MNEMO_CHECK(next == list.size() && attributes.open_count == 0);
    count_ = inputs_.tokens.q.dim(2);
    tail_ = count_ % rule_.chunk;
  }

  const MemoryScanInputs& inputs() const { return inputs_; }
  int64_t count() const { return count_; }
  int64_t tail() const { return tail_; }
  int64_t whole() const { return count_ - tail_; }

  // Tokens [begin, end) from `state` on, both at beginnings of chunks or the end.
  MemoryScanPiece Piece(int64_t begin, int64_t end, MemoryState state) const {
    MemoryScanPiece piece{rule_, {inputs_.tokens, inputs_.parameters, std::move(state)}, resets_};
    MemoryTokens& tokens = piece.inputs.tokens;
    for (Var* x : {&tokens.q, &tokens.k, &tokens.v, &tokens.theta, &tokens.eta, &tokens.alpha}) {
      if (x->defined()) *x = Var(Rows(x->value(), begin, end));
    }
    if (resets_.defined()) {
      const int64_t b = rule_.chunk;
      piece.resets = resets_.Slice(1, begin / b, (end + b - 1) / b);
    }
    return piece;
  }

 private:
  const MemoryRule& rule_;
  const Tensor& resets_;
  MemoryScanInputs inputs_;
  int64_t count_ = 0, tail_ = 0;
};

// The state in which a piece of less than a chunk leaves its chunk open.
MemoryState Open(const MemoryRule& rule, const MemoryScanInputs& inputs, const Tensor& resets) {
  const MemoryTokens& tokens = inputs.tokens;
  MemoryState state = inputs.state;
  if (resets.defined()) ResetMemoryState(rule, inputs.parameters, resets, state);
  InnerGradient gradient =
      MemoryGradient(rule, inputs.parameters, state.w, Widen(tokens.k), Widen(tokens.v));
  state.open = {tokens.k.dim(2),
                std::move(gradient.inputs),
                std::move(gradient.deltas),
                tokens.theta,
                tokens.eta,
                tokens.alpha};
  return state;
}

// Gradients of Open's inputs from the adjoint of its result.
MemoryScanInputs OpenBackward(const MemoryScanPiece& piece, MemoryState dstate) {
  Tape tape;
  MemoryScanInputs inputs = piece.inputs;
  std::vector<Var> leaves, outputs;
  std::vector<Tensor> adjoints;
  ForEachVar(piece.rule, inputs, [&](Var& x) { leaves.push_back(x = tape.Leaf(x.value())); });
  MemoryState state = Open(piece.rule, inputs, piece.resets);
  ForEachVar(piece.rule, state, [&](Var& x) { outputs.push_back(x); });
  ForEachVar(piece.rule, dstate, [&](Var& x) { adjoints.push_back(x.value()); });
  const std::vector<Tensor> results = tape.Gradient(outputs, adjoints, leaves);
  MemoryScanInputs gradients;
  size_t next = 0;
  ForEachVar(piece.rule, gradients, [&](Var& x) { x = Var(results[next++]); });
  return gradients;
}

void AddTo(const Var& rows, const Var& x) {
  if (!x.defined()) return;
  Backend::For(rows.device()).Copy(Add(rows, x).value(), rows.value());
}

// Applies f to the gradients of both that are not of tokens.
template <typename F>
void ForEachSlowVar(const MemoryRule& rule, MemoryScanInputs& a, MemoryScanInputs& b, F&& f) {
  std::vector<Var*> first;
  ForEachVar(rule, a.parameters, [&](Var& x) { first.push_back(&x); });
  ForEachVar(rule, a.state, [&](Var& x) { first.push_back(&x); });
  size_t next = 0;
  ForEachVar(rule, b.parameters, [&](Var& x) { f(*first[next++], x); });
  ForEachVar(rule, b.state, [&](Var& x) { f(*first[next++], x); });
}

// The gradients of the open chunk's piece. `dstate` is the adjoint of the state that came out; then
// the state's in the result is that of the state before.
MemoryScanInputs TailBackward(const MemoryScanKernel& kernel, const MemoryScanPiece& piece,
                              const Tensor& saved, const Tensor& dy, const MemoryState& dstate,
                              MemoryScanInputs gradients) {
  MemoryState nothing{dstate.w, dstate.s, {}};
  ForEachVar(piece.rule, nothing,
             [](Var& x) { x = Var(Tensor::Zeros(x.shape(), x.dtype(), x.device())); });
  kernel.backward(piece, saved, dy, nothing, gradients);
  MemoryScanInputs open = OpenBackward(piece, dstate);
  AddTo(gradients.tokens.k, open.tokens.k);
  AddTo(gradients.tokens.v, open.tokens.v);
  for (const auto gate : {&MemoryTokens::theta, &MemoryTokens::eta, &MemoryTokens::alpha}) {
    gradients.tokens.*gate = Sum(gradients.tokens.*gate, open.tokens.*gate);
  }
  ForEachSlowVar(piece.rule, gradients, open, [](Var& a, const Var& b) { a = Sum(a, b); });
  return gradients;
}

// The same for parts of the tokens q, k and v.
MemoryScanInputs GradientRows(const MemoryScanInputs& gradients, int64_t begin, int64_t end) {
  MemoryScanInputs rows;
  for (const auto x : {&MemoryTokens::q, &MemoryTokens::k, &MemoryTokens::v}) {
    rows.tokens.*x = Var(Rows((gradients.tokens.*x).value(), begin, end));
  }
  return rows;
}

template <typename T>
std::vector<Tensor> Flatten(const MemoryRule& rule, T& object) {
  std::vector<Tensor> list;
  ForEachVar(rule, object, [&](Var& x) { list.push_back(x.value()); });
  return list;
}

}  // namespace

std::vector<Tensor> ScanForward(const MemoryScanKernel& kernel, std::span<const Tensor> list,
                                const MemoryScanAttributes& attributes,
                                std::vector<Tensor>* saved) {
  const MemoryRule& rule = attributes.rule;
  const Cut cut(list, attributes);
  const Tensor y = EmptyPerHeadLike(cut.inputs().tokens.q.value());
  const auto run = [&](const MemoryScanPiece& piece, int64_t begin, int64_t end) {
    Tensor of_piece;
    MemoryScanResult result =
        kernel.forward(piece, Rows(y, begin, end), saved == nullptr ? nullptr : &of_piece);
    if (saved != nullptr) saved->push_back(of_piece);
    return result;
  };
  MemoryScanResult result;
  result.state = cut.inputs().state;
  if (cut.whole() > 0) {
    result = run(cut.Piece(0, cut.whole(), result.state), 0, cut.whole());
  }
  if (cut.tail() > 0) {
    const MemoryScanPiece tail = cut.Piece(cut.whole(), cut.count(), result.state);
    if (saved != nullptr) {
      ForEachVar(rule, result.state, [&](Var& x) { saved->push_back(x.value()); });
    }
    const MemoryScanResult read = run(tail, cut.whole(), cut.count());
    if (rule.clamp > 0) {
      result.clamp_hits = Sum(Var(result.clamp_hits), Var(read.clamp_hits)).value();
    }
    result.state = Open(rule, tail.inputs, tail.resets);
  }
  result.y = Var(y);
  return Flatten(rule, result);
}

std::vector<Tensor> ScanBackward(const MemoryScanKernel& kernel, std::span<const Tensor> list,
                                 const MemoryScanAttributes& attributes,
                                 std::span<const Tensor> saved,
                                 std::span<const Tensor> output_gradients) {
  const MemoryRule& rule = attributes.rule;
  const Cut cut(list, attributes);
  MemoryScanResult adjoint;
  adjoint.state.open.count = cut.tail();
  size_t next = 0, kept = 0;
  ForEachVar(rule, adjoint, [&](Var& x) { x = Var(output_gradients[next++]); });
  const Tensor& dy = adjoint.y.value();
  MemoryScanInputs gradients;
  for (const auto x : {&MemoryTokens::q, &MemoryTokens::k, &MemoryTokens::v}) {
    gradients.tokens.*x = Var(EmptyPerHeadLike((cut.inputs().tokens.*x).value()));
  }
  const Tensor of_whole = cut.whole() > 0 ? saved[kept++] : Tensor();
  MemoryState dstate = adjoint.state;
  MemoryScanInputs tail;
  if (cut.tail() > 0) {
    MemoryState state;
    ForEachVar(rule, state, [&](Var& x) { x = Var(saved[kept++]); });
    tail = TailBackward(kernel, cut.Piece(cut.whole(), cut.count(), state), saved[kept],
                        Rows(dy, cut.whole(), cut.count()), dstate,
                        GradientRows(gradients, cut.whole(), cut.count()));
    dstate = tail.state;
  }
  MemoryScanInputs whole;
  if (cut.whole() > 0) {
    whole = GradientRows(gradients, 0, cut.whole());
    kernel.backward(cut.Piece(0, cut.whole(), cut.inputs().state), of_whole,
                    Rows(dy, 0, cut.whole()), dstate, whole);
  }
  for (const auto gate : {&MemoryTokens::theta, &MemoryTokens::eta, &MemoryTokens::alpha}) {
    const Var parts[] = {whole.tokens.*gate, tail.tokens.*gate};
    const bool both = parts[0].defined() && parts[1].defined();
    gradients.tokens.*gate = both ? Concat(parts, 2) : parts[0].defined() ? parts[0] : parts[1];
  }
  gradients.parameters = whole.parameters;
  ForEachSlowVar(rule, gradients, tail, [](Var& a, const Var& b) { a = Sum(a, b); });
  gradients.state = cut.whole() > 0 ? whole.state : tail.state;
  return Flatten(rule, gradients);
}

}  // namespace mnemo::cuda
