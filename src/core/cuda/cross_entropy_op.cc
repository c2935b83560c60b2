#include <algorithm>

#include "src/core/backend.h"
#include "src/core/cuda/cross_entropy.h"
#include "src/core/cuda/cuda_backend.h"
#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {
namespace {

// The tiles of one call, in an order that forward and backward share.
class Tiles {
 public:
  Tiles(std::span<const Tensor> inputs, const CrossEntropyAttributes& attributes)
      : x_(inputs[0].Contiguous()),
        head_(inputs[1].Contiguous()),
        columns_(std::min({attributes.tile, kMaxTileColumns, head_.dim(0)})),
        buffer_(Tensor::Empty({std::min(kLogitTileRows, x_.dim(0)), columns_}, DType::kF32,
                              x_.device())) {}

  // body(tile, rows of x, entries of the head) with the tile's logits computed.
  template <typename F>
  void ForEach(F&& body) {
    for (int64_t row = 0; row < x_.dim(0); row += kLogitTileRows) {
      const Tensor x = x_.Slice(0, row, std::min(x_.dim(0), row + kLogitTileRows));
      for (int64_t first = 0; first < head_.dim(0); first += columns_) {
        const Tensor head = head_.Slice(0, first, std::min(head_.dim(0), first + columns_));
        const Tensor logits = Logits(x.dim(0), head.dim(0));
        backend().Gemm(x, head.Transpose(), 1, 0, logits);
        body(LogitTile{.logits = logits.data<float>(),
                       .rows = x.dim(0),
                       .columns = head.dim(0),
                       .first_column = first,
                       .first = first == 0,
                       .last = first + columns_ >= head_.dim(0)},
             row, x, head);
      }
    }
  }

  // The buffer as [rows, columns], dense.
  Tensor Logits(int64_t rows, int64_t columns) const {
    return buffer_.View({buffer_.elements()}).Slice(0, 0, rows * columns).View({rows, columns});
  }

  CudaDevice& backend() const { return static_cast<CudaDevice&>(Backend::For(x_.device())); }
  const Tensor& x() const { return x_; }
  const Tensor& head() const { return head_; }
  int64_t columns() const { return columns_; }

 private:
  Tensor x_, head_;
  int64_t columns_;
  Tensor buffer_;
};

bool Accepts(std::span<const Tensor> inputs, const CrossEntropyAttributes&) {
  return SupportsCrossEntropy(inputs[0].dtype(), inputs[1].dtype());
}

std::vector<Tensor> Forward(std::span<const Tensor> inputs,
                            const CrossEntropyAttributes& attributes, std::vector<Tensor>* saved) {
  Tiles tiles(inputs, attributes);
  const int64_t rows = tiles.x().dim(0);
  const auto column = [&] { return Tensor::Empty({rows, 1}, DType::kF32, tiles.x().device()); };
  const Tensor log_sums = column(), picked = column(), maxima = column(), sums = column();
  const Tensor targets = attributes.targets.Contiguous();
  tiles.ForEach([&](const LogitTile& tile, int64_t row, const Tensor&, const Tensor&) {
    CudaScratch scratch(tiles.backend());
    UpdateLogSums(scratch.launch(), tile,
                  {.targets = targets.data<int32_t>() + row,
                   .maxima = maxima.data<float>() + row,
                   .sums = sums.data<float>() + row,
                   .picked = picked.data<float>() + row,
                   .log_sums = log_sums.data<float>() + row});
  });
  if (saved != nullptr) saved->push_back(log_sums);
  return {log_sums, picked};
}

// Sums over tiles are formed in f32.
std::vector<Tensor> Backward(std::span<const Tensor> inputs,
                             const CrossEntropyAttributes& attributes,
                             std::span<const Tensor> saved,
                             std::span<const Tensor> output_gradients, const std::vector<bool>&) {
  Tiles tiles(inputs, attributes);
  const Tensor &x = tiles.x(), &head = tiles.head();
  const Tensor targets = attributes.targets.Contiguous();
  const Tensor grad_log_sums = output_gradients[0].To(DType::kF32).Contiguous();
  const Tensor grad_picked = output_gradients[1].To(DType::kF32).Contiguous();
  const Tensor grad_x = Tensor::Empty(x.shape(), DType::kF32, x.device());
  const Tensor grad_head = Tensor::Empty(head.shape(), DType::kF32, x.device());
  const Tensor narrow =
      Tensor::Empty({std::min(kLogitTileRows, x.dim(0)) * tiles.columns()}, x.dtype(), x.device());
  Backend& backend = tiles.backend();
  tiles.ForEach([&](const LogitTile& tile, int64_t row, const Tensor& x_rows,
                    const Tensor& head_rows) {
    const Tensor gradient =
        narrow.Slice(0, 0, tile.rows * tile.columns).View({tile.rows, tile.columns});
    CudaScratch scratch(tiles.backend());
    LogitGradient(scratch.launch(), tile,
                  {.targets = targets.data<int32_t>() + row,
                   .log_sums = saved[0].data<float>() + row,
                   .grad_log_sums = grad_log_sums.data<float>() + row,
                   .grad_picked = grad_picked.data<float>() + row,
                   .dtype = x.dtype(),
                   .gradient = gradient.raw()});
    backend.Gemm(gradient, head_rows, 1, tile.first ? 0 : 1, grad_x.Slice(0, row, row + tile.rows));
    backend.Gemm(gradient.Transpose(), x_rows, 1, row == 0 ? 0 : 1,
                 grad_head.Slice(0, tile.first_column, tile.first_column + tile.columns));
  });
  return {grad_x.To(inputs[0].dtype()), grad_head.To(inputs[1].dtype())};
}

}  // namespace

void RegisterCrossEntropy() {
  CrossEntropyOp().Register(DeviceType::kCuda,
                            {.accepts = Accepts, .forward = Forward, .backward = Backward});
}

}  // namespace mnemo::cuda
