// The matrix products and the primitives of a model's training step: parts of BenchModelOps.
#include <fmt/format.h>

#include <utility>

#include "src/core/backend.h"
#include "src/core/random.h"
#include "src/job/op_timer.h"

namespace mnemo {
namespace {

class ProductBench {
 public:
  ProductBench(const ModelOpShapes& s, OpTimer& timer)
      : timer_(timer), backend_(Backend::For(timer.device())), tokens_(s.batch * s.length) {}

  // y = x W^T and, of the gradients, dx = dy W and dW += dy^T x.
  void Linear(const std::string& name, int64_t in, int64_t out, DType out_type,
              bool gradient_of_x) {
    const Tensor x = timer_.Random({tokens_, in}, kRows);
    const Tensor weight = timer_.Random({out, in}, kRows, 0.02);
    Time(name, x, weight.Transpose(), timer_.Empty({tokens_, out}, out_type), false);
    const Tensor dy = timer_.Random({tokens_, out}, kRows);
    if (gradient_of_x) {
      Time(name + ", gradient of x", dy, weight, timer_.Empty({tokens_, in}, kRows), false);
    }
    const Tensor sum = timer_.Random({out, in}, kSums);
    Time(name + ", gradient of the weight", dy.Transpose(), x, sum, true);
  }

 private:
  void Time(const std::string& name, const Tensor& a, const Tensor& b, const Tensor& out,
            bool added) {
    OpWork work{2 * Count(a) * static_cast<double>(b.dim(-1)), BytesOf({a, b, out})};
    if (added) work.bytes += BytesOf({out});
    timer_.Product(name, fmt::format("{} x {}", a.shape(), b.shape()), work,
                   [&] { backend_.Gemm(a, b, added ? 1e-6 : 1, added ? 1 : 0, out); });
  }

  OpTimer& timer_;
  Backend& backend_;
  int64_t tokens_;
};

class PrimitiveBench {
 public:
  PrimitiveBench(const ModelOpShapes& s, OpTimer& timer)
      : s_(s),
        timer_(timer),
        backend_(Backend::For(timer.device())),
        tokens_(s.batch * s.length),
        rows_{s.batch, s.length, s.width} {}

  void Run() {
    Elementwise();
    Copies();
    Reductions();
    Sequences();
    Tables();
    Optimizer();
  }

 private:
  // `flops` of an element of the first tensor.
  void Time(const std::string& name, double flops, const std::vector<Tensor>& moved,
            const std::function<void()>& call) {
    timer_.Primitive(name, moved[0].shape(), {flops * Count(moved[0]), BytesOf(moved)}, call);
  }

  void Elementwise() {
    const Tensor x = timer_.Random(rows_, kRows), y = timer_.Random(rows_, kRows);
    const Tensor out = timer_.Empty(rows_, kRows);
    Time("silu", 1, {x, out}, [&] { backend_.Unary(UnaryOp::kSilu, x, out); });
    Time("gelu, second derivative", 1, {x, out},
         [&] { backend_.Unary(UnaryOp::kGeluGrad2, x, out); });
    Time("scale", 1, {x, out}, [&] { backend_.Affine(x, 0.5, 0, out); });
    Time("add", 1, {x, y, out}, [&] { backend_.Binary(BinaryOp::kAdd, x, y, out); });
    const Tensor row = timer_.Random({s_.width}, kRows);
    const Tensor spread = row.BroadcastTo(rows_);
    Time("multiply by a row", 1, {x, row, out},
         [&] { backend_.Binary(BinaryOp::kMul, x, spread, out); });
    Time("where", 1, {x, x, y, out}, [&] { backend_.Where(x, x, y, out); });
    const Tensor sum = timer_.Random(rows_, kSums);
    Time("add bf16 to f32", 1, {sum, x, sum},
         [&] { backend_.Binary(BinaryOp::kAdd, sum, x, sum); });
  }

  void Copies() {
    const Tensor wide = timer_.Random(rows_, kSums), out = timer_.Empty(rows_, kRows);
    Time("fill", 0, {out}, [&] { backend_.Fill(out, 0); });
    Time("f32 to bf16", 0, {wide, out}, [&] { backend_.Copy(wide, out); });
    const int order[] = {0, 2, 1, 3};
    const Tensor heads = out.View({s_.batch, s_.length, s_.heads, s_.width / s_.heads});
    const Tensor view = heads.Permute(order), packed = timer_.Empty(view.shape(), kRows);
    Time("copy heads out of time", 0, {packed, view}, [&] { backend_.Copy(view, packed); });
  }

  void Reductions() {
    const Tensor x = timer_.Random({tokens_, s_.width}, kSums);
    const Tensor rows = timer_.Empty({tokens_, 1}, kSums);
    Time("sum of rows", 1, {x, rows}, [&] { backend_.Reduce(ReduceOp::kSum, x, rows); });
    const Tensor columns = timer_.Empty({1, s_.width}, kSums);
    Time("sum of columns", 1, {x, columns}, [&] { backend_.Reduce(ReduceOp::kSum, x, columns); });
    Time("squared norm", 2, {x}, [&] { (void)backend_.SquaredNorms({&x, 1}); });
  }

  void Sequences() {
    const Tensor x = timer_.Random(rows_, kSums), out = timer_.Empty(rows_, kSums);
    Time("softmax", 4, {x, out}, [&] { backend_.Softmax(x, out); });
    const Tensor decay = Tensor::Full(rows_, 0.9, kSums, timer_.device());
    Time("scan", 2, {x, decay, out}, [&] { backend_.LinearScan(decay, x, false, out); });
    constexpr int64_t kTaps = 4;
    const Tensor y = timer_.Empty(rows_, kRows), grad = timer_.Random(rows_, kRows);
    const Tensor longer = timer_.Random({s_.batch, s_.length + kTaps - 1, s_.width}, kRows);
    const Tensor weight = timer_.Random({s_.width, kTaps}, kRows);
    Time("convolution", 2 * kTaps, {longer, weight, y},
         [&] { backend_.DepthwiseConv(longer, weight, y); });
    Time("convolution, gradient of the weight", 2 * kTaps, {longer, grad, weight},
         [&] { backend_.DepthwiseConvWeightGrad(longer, grad, weight); });
  }

  Tensor Ids(int64_t below) const {
    const RandomStream random(1, 0, "bench");
    std::vector<int32_t> ids(tokens_);
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(random.Below(i, static_cast<uint64_t>(below)));
    }
    return Tensor::FromHost(std::span<const int32_t>(ids), {tokens_}, timer_.device());
  }

  void Tables() {
    const Tensor ids = Ids(s_.vocabulary), columns = Ids(s_.vocabulary_tile);
    const Tensor table = timer_.Random({s_.vocabulary, s_.width}, kRows);
    const Tensor rows = timer_.Empty({tokens_, s_.width}, kRows);
    Time("gather rows", 0, {rows, rows, ids}, [&] { backend_.GatherRows(table, ids, rows); });
    const Tensor wide = timer_.Random({tokens_, s_.width}, kSums);
    const Tensor sum = timer_.Empty(table.shape(), kSums);
    Time("add rows to a table", 1, {wide, ids, sum},
         [&] { backend_.ScatterAddRows(wide, ids, sum); });
    const Tensor logits = timer_.Random({tokens_, s_.vocabulary_tile}, kSums);
    const Tensor picked = timer_.Empty({tokens_, 1}, kSums);
    Time("pick columns", 0, {picked, picked, ids},
         [&] { backend_.PickColumns(logits, columns, picked); });
    Time("place columns", 0, {logits, picked, ids},
         [&] { backend_.PlaceColumns(picked, columns, logits); });
  }

  void Optimizer() {
    const Shape all{12 * s_.width * s_.mlp};
    const Tensor p = timer_.Random(all, kSums, 0.02), g = timer_.Random(all, kSums, 1e-3);
    const Tensor m = Tensor::Zeros(all, kSums, timer_.device());
    const Tensor v = Tensor::Zeros(all, kSums, timer_.device());
    const AdamWStep step{1e-3, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 1};
    Time("adamw", 12, {p, g, m, v, p, m, v}, [&] { backend_.AdamW(step, g, p, m, v); });
  }

  const ModelOpShapes& s_;
  OpTimer& timer_;
  Backend& backend_;
  int64_t tokens_;
  Shape rows_;
};

}  // namespace

void BenchModelProducts(const ModelOpShapes& s, OpTimer& timer) {
  ProductBench bench(s, timer);
  bench.Linear("projection", s.width, s.width, kRows, true);
  bench.Linear("mlp up", s.width, s.mlp, kRows, true);
  bench.Linear("mlp down", s.mlp, s.width, kRows, true);
  bench.Linear("head, one tile", s.width, s.vocabulary_tile, kSums, true);
}

void BenchModelPrimitives(const ModelOpShapes& s, OpTimer& timer) {
  PrimitiveBench(s, timer).Run();
}

}  // namespace mnemo
