// The kernels of the waist, put on the device's stream.
#include "src/core/cuda/check.h"
#include "src/core/cuda/cuda_backend.h"

namespace mnemo {

void CudaDevice::Fill(const Tensor& out, double value) {
  if (out.elements() == 0) return;
  const CudaScratch scratch(*this);
  cuda::Fill(scratch.launch(), ViewOf(out), value);
}

void CudaDevice::Copy(const Tensor& x, const Tensor& out) {
  if (out.elements() == 0) return;
  const CudaScratch scratch(*this);
  cuda::Copy(scratch.launch(), ViewOf(x), ViewOf(out));
}

void CudaDevice::Unary(UnaryOp op, const Tensor& x, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(x.dtype() == out.dtype());
  const CudaScratch scratch(*this);
  cuda::Unary(scratch.launch(), op, ViewOf(x), ViewOf(out));
}

void CudaDevice::Affine(const Tensor& x, double scale, double shift, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(x.dtype() == out.dtype());
  const CudaScratch scratch(*this);
  cuda::Affine(scratch.launch(), ViewOf(x), scale, shift, ViewOf(out));
}

void CudaDevice::Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(a.dtype() == out.dtype());
  MNEMO_CHECK(b.dtype() == out.dtype() ||
              (op == BinaryOp::kAdd && b.dtype() == DType::kBF16 && out.dtype() == DType::kF32));
  const CudaScratch scratch(*this);
  cuda::Binary(scratch.launch(), op, ViewOf(a), ViewOf(b), ViewOf(out));
}

void CudaDevice::Where(const Tensor& mask, const Tensor& a, const Tensor& b, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(mask.dtype() == out.dtype() && a.dtype() == out.dtype() && b.dtype() == out.dtype());
  const CudaScratch scratch(*this);
  cuda::Where(scratch.launch(), ViewOf(mask), ViewOf(a), ViewOf(b), ViewOf(out));
}

void CudaDevice::Reduce(ReduceOp op, const Tensor& x, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(x.dtype() == out.dtype() && x.rank() == out.rank());
  const CudaScratch scratch(*this);
  cuda::Reduce(scratch.launch(), op, ViewOf(x), ViewOf(out));
}

void CudaDevice::Gemm(const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& c,
                      const Tensor& out) {
  MNEMO_CHECK(a.rank() >= 2 && a.rank() == b.rank() && a.rank() == out.rank());
  MNEMO_CHECK(a.dtype() == b.dtype());
  MNEMO_CHECK(a.dtype() == out.dtype() ||
              (a.dtype() == DType::kBF16 && out.dtype() == DType::kF32));
  MNEMO_CHECK(a.dim(-1) == b.dim(-2) && a.dim(-2) == out.dim(-2) && b.dim(-1) == out.dim(-1));
  if (out.elements() == 0) return;
  if (a.dim(-1) == 0 || alpha == 0) {
    if (beta == 0) return Fill(out, 0);
    return Affine(c, beta, 0, out);
  }
  const cuda::View result = ViewOf(out);
  const bool alike = beta != 0 && c.strides() == out.strides() && cuda::LayoutOf(result);
  if (beta != 0 && !alike && !c.same_view(out)) Copy(c, out);
  const CudaScratch scratch(*this);
  products_->Run(scratch.launch(), ViewOf(a), ViewOf(b), alpha, beta, alike ? c.raw() : out.raw(),
                 result);
}

void CudaDevice::LinearScan(const Tensor& a, const Tensor& b, bool reverse, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(a.dtype() == out.dtype() && b.dtype() == out.dtype());
  const CudaScratch scratch(*this);
  cuda::LinearScan(scratch.launch(), ViewOf(a), ViewOf(b), reverse, ViewOf(out));
}

void CudaDevice::Softmax(const Tensor& x, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(x.dtype() == out.dtype());
  const CudaScratch scratch(*this);
  cuda::Softmax(scratch.launch(), ViewOf(x), ViewOf(out));
}

void CudaDevice::DepthwiseConv(const Tensor& x, const Tensor& weight, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(x.dtype() == out.dtype() && weight.dtype() == out.dtype());
  const CudaScratch scratch(*this);
  cuda::DepthwiseConv(scratch.launch(), ViewOf(x), ViewOf(weight), ViewOf(out));
}

void CudaDevice::DepthwiseConvWeightGrad(const Tensor& x, const Tensor& grad, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(x.dtype() == out.dtype() && grad.dtype() == out.dtype());
  if (grad.elements() == 0) return Fill(out, 0);
  const CudaScratch scratch(*this);
  cuda::DepthwiseConvWeightGrad(scratch.launch(), ViewOf(x), ViewOf(grad), ViewOf(out));
}

void CudaDevice::GatherRows(const Tensor& table, const Tensor& ids, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(table.dtype() == out.dtype() && ids.dtype() == DType::kI32);
  const CudaScratch scratch(*this);
  cuda::GatherRows(scratch.launch(), ViewOf(table), ViewOf(ids), ViewOf(out));
}

void CudaDevice::ScatterAddRows(const Tensor& rows, const Tensor& ids, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(rows.dtype() == out.dtype() && ids.dtype() == DType::kI32);
  if (rows.elements() == 0) return Fill(out, 0);
  const CudaScratch scratch(*this);
  cuda::ScatterAddRows(scratch.launch(), ViewOf(rows), ViewOf(ids), ViewOf(out));
}

void CudaDevice::PickColumns(const Tensor& x, const Tensor& ids, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(x.dtype() == out.dtype() && ids.dtype() == DType::kI32);
  if (x.elements() == 0) return Fill(out, 0);
  const CudaScratch scratch(*this);
  cuda::PickColumns(scratch.launch(), ViewOf(x), ViewOf(ids), ViewOf(out));
}

void CudaDevice::PlaceColumns(const Tensor& values, const Tensor& ids, const Tensor& out) {
  if (out.elements() == 0) return;
  MNEMO_CHECK(values.dtype() == out.dtype() && ids.dtype() == DType::kI32);
  const CudaScratch scratch(*this);
  cuda::PlaceColumns(scratch.launch(), ViewOf(values), ViewOf(ids), ViewOf(out));
}

void CudaDevice::AdamW(const AdamWStep& step, const Tensor& gradient, const Tensor& parameter,
                       const Tensor& first_moment, const Tensor& second_moment) {
  if (parameter.elements() == 0) return;
  MNEMO_CHECK(gradient.contiguous() && parameter.contiguous());
  MNEMO_CHECK(first_moment.contiguous() && second_moment.contiguous());
  const CudaScratch scratch(*this);
  cuda::AdamW(scratch.launch(), step, ViewOf(gradient), ViewOf(parameter), ViewOf(first_moment),
              ViewOf(second_moment));
}

// One launch for each dtype there is, and one wait for all.
std::vector<double> CudaDevice::SquaredNorms(std::span<const Tensor> tensors) {
  std::vector<double> norms(tensors.size(), 0.0);
  const CudaScratch scratch(*this);
  std::vector<size_t> order;  // which tensor the i-th number on the device is of
  auto* const sums =
      static_cast<double*>(scratch.launch().scratch.Take(tensors.size() * sizeof(double)));
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    std::vector<const void*> data;
    std::vector<int64_t> elements;
    const size_t first = order.size();
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].dtype() != dtype || tensors[i].elements() == 0) continue;
      MNEMO_CHECK(tensors[i].contiguous());
      data.push_back(tensors[i].raw());
      elements.push_back(tensors[i].elements());
      order.push_back(i);
    }
    if (data.empty()) continue;
    cuda::SquaredNorms(scratch.launch(), dtype, static_cast<int>(data.size()), data.data(),
                       elements.data(), sums + first);
  }
  if (order.empty()) return norms;
  std::vector<double> found(order.size());
  MNEMO_CUDA(cudaMemcpyAsync(found.data(), sums, found.size() * sizeof(double),
                             cudaMemcpyDeviceToHost, stream_));
  MNEMO_CUDA(cudaStreamSynchronize(stream_));
  for (size_t i = 0; i < order.size(); ++i) norms[order[i]] = found[i];
  return norms;
}

}  // namespace mnemo
