// cuBLASLt's products, in plain loops.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <vector>

namespace {

double Load(cudaDataType_t type, const void* data, int64_t at) {
  switch (type) {
    case CUDA_R_32F:
      return static_cast<const float*>(data)[at];
    case CUDA_R_64F:
      return static_cast<const double*>(data)[at];
    default:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
  }
}

void Store(cudaDataType_t type, void* data, int64_t at, double x) {
  switch (type) {
    case CUDA_R_32F:
      static_cast<float*>(data)[at] = static_cast<float>(x);
      return;
    case CUDA_R_64F:
      static_cast<double*>(data)[at] = x;
      return;
    default:
      static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16(static_cast<float>(x));
  }
}

// [rows, columns] of op(x), rows dense.
std::vector<double> Dense(const cublasLtMatrixLayout& layout, const void* data, int64_t batch,
                          bool transposed) {
  const auto rows = static_cast<int64_t>(transposed ? layout.columns : layout.rows);
  const auto columns = static_cast<int64_t>(transposed ? layout.rows : layout.columns);
  std::vector<double> dense(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t at = transposed ? j + i * layout.ld : i + j * layout.ld;
      dense[i * columns + j] = Load(layout.type, data, batch * layout.stride + at);
    }
  }
  return dense;
}

void Multiply(const cublasLtMatmulDesc& description, double alpha, const void* a,
              const cublasLtMatrixLayout& a_layout, const void* b,
              const cublasLtMatrixLayout& b_layout, double beta, const void* c,
              const cublasLtMatrixLayout& c_layout, void* d, const cublasLtMatrixLayout& d_layout) {
  const auto m = static_cast<int64_t>(d_layout.rows), n = static_cast<int64_t>(d_layout.columns);
  const bool transposed = description.transposed[0] == CUBLAS_OP_T;
  const auto k = static_cast<int64_t>(transposed ? a_layout.rows : a_layout.columns);
  for (int64_t batch = 0; batch < d_layout.batch; ++batch) {
    const std::vector<double> left = Dense(a_layout, a, batch, transposed);
    const std::vector<double> right =
        Dense(b_layout, b, batch, description.transposed[1] == CUBLAS_OP_T);
    std::vector<double> sums(n);
    for (int64_t i = 0; i < m; ++i) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t l = 0; l < k; ++l) {
        const double x = left[i * k + l];
        for (int64_t j = 0; j < n; ++j) sums[j] += x * right[l * n + j];
      }
      for (int64_t j = 0; j < n; ++j) {
        double sum = alpha * sums[j];
        if (beta != 0) {
          sum += beta * Load(c_layout.type, c, batch * c_layout.stride + i + j * c_layout.ld);
        }
        Store(d_layout.type, d, batch * d_layout.stride + i + j * d_layout.ld, sum);
      }
    }
  }
}

}  // namespace

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, const cublasLtMatmulDesc* description,
                              const void* alpha, const void* a,
                              const cublasLtMatrixLayout* a_layout, const void* b,
                              const cublasLtMatrixLayout* b_layout, const void* beta, const void* c,
                              const cublasLtMatrixLayout* c_layout, void* d,
                              const cublasLtMatrixLayout* d_layout, const cublasLtMatmulAlgo_t*,
                              void*, size_t, cudaStream_t) {
  // Sums in f64 whatever is asked for: f32 as a library adds it up is hardly worse.
  const auto number = [&](const void* x) {
    return description->compute == CUBLAS_COMPUTE_64F ? *static_cast<const double*>(x)
                                                      : *static_cast<const float*>(x);
  };
  Multiply(*description, number(alpha), a, *a_layout, b, *b_layout, number(beta), c, *c_layout, d,
           *d_layout);
  return CUBLAS_STATUS_SUCCESS;
}
