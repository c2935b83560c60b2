#include "src/core/cuda/gemm.h"

#include <algorithm>
#include <string>

#include "src/core/cuda/check.h"
#include "src/core/status.h"

namespace mnemo::cuda {
namespace {

// Products of so many batches one after the other cost less than copies that make them one batch.
constexpr int64_t kMostLoops = 32;
// Batches of one call: what a grid's third dimension holds.
constexpr int64_t kMostBatches = 65535;
// Rows of copies are this many elements apart, which every kernel of the library takes.
constexpr int64_t kPadding = 8;
constexpr int64_t kMostAlignment = 256;

cudaDataType_t DataType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF64:
      return CUDA_R_64F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      MNEMO_CHECK(false, "no products of {}", Name(dtype));
      return CUDA_R_32F;
  }
}

char* At(const View& x, int64_t elements) {
  return static_cast<char*>(x.data) + elements * SizeOf(x.dtype);
}

// Largest power of two that every matrix of the batch begins at a multiple of.
int64_t Alignment(const void* data, int64_t batch_bytes) {
  const auto bits = reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(batch_bytes) |
                    static_cast<uintptr_t>(kMostAlignment);
  return static_cast<int64_t>(bits & (~bits + 1));
}

// Repeated dims (stride 0) once; `once` has size 1 there.
View WithoutRepeats(const View& x) {
  View once = x;
  for (int axis = 0; axis < x.rank; ++axis) {
    if (x.strides[axis] == 0) once.shape[axis] = 1;
  }
  return once;
}

// A copy of x with dense rows; leading dims that repeat still do.
View CopyOf(const Launch& launch, const View& x, int64_t padding) {
  View once = WithoutRepeats(x);
  for (int axis = x.rank - 2; axis < x.rank; ++axis) once.shape[axis] = x.shape[axis];
  const View dense = Dense(once, launch.scratch.Take(DenseBytes(once, padding)), padding);
  Copy(launch, once, dense);
  View result = dense;
  for (int axis = 0; axis + 2 < x.rank; ++axis) {
    if (once.shape[axis] != x.shape[axis]) result.strides[axis] = 0;
    result.shape[axis] = x.shape[axis];
  }
  return result;
}

// Descriptors of the library, freed with their owner.
struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  Layout(DType dtype, int64_t rows, int64_t columns, int64_t ld, int64_t batch, int64_t stride) {
    MNEMO_CUDA(cublasLtMatrixLayoutCreate(&handle, DataType(dtype), rows, columns, ld));
    if (batch == 1) return;
    const auto count = static_cast<int32_t>(batch);
    MNEMO_CUDA(cublasLtMatrixLayoutSetAttribute(handle, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                                sizeof(count)));
    MNEMO_CUDA(cublasLtMatrixLayoutSetAttribute(handle, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                &stride, sizeof(stride)));
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(handle); }
  Layout(const Layout&) = delete;
};

struct Preference {
  cublasLtMatmulPreference_t handle = nullptr;
  Preference() { MNEMO_CUDA(cublasLtMatmulPreferenceCreate(&handle)); }
  ~Preference() { cublasLtMatmulPreferenceDestroy(handle); }
  Preference(const Preference&) = delete;
  template <typename T>
  void Set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    MNEMO_CUDA(cublasLtMatmulPreferenceSetAttribute(handle, attribute, &value, sizeof(value)));
  }
};

}  // namespace

// out [m, n] = alpha a [m, k] b [k, n] + beta c [m, n], `batch` times; c lies as out, whose rows
// are dense.
struct MatrixProducts::Product {
  DType dtype, out_dtype;
  int64_t m, n, k, batch;
  MatrixLayout a_layout, b_layout;
  int64_t out_ld;
  int64_t a_stride, b_stride, out_stride;  // between batches
  const void *a, *b, *c;
  void* out;
  double alpha, beta;

  int64_t a_alignment() const { return Alignment(a, Step(a_stride, dtype)); }
  int64_t b_alignment() const { return Alignment(b, Step(b_stride, dtype)); }
  int64_t c_alignment() const { return Alignment(c, Step(out_stride, out_dtype)); }
  int64_t out_alignment() const { return Alignment(out, Step(out_stride, out_dtype)); }

 private:
  int64_t Step(int64_t stride, DType type) const { return batch > 1 ? stride * SizeOf(type) : 0; }
};

// The library counts columns first, so it is given out^T = b^T a^T: a matrix with dense rows is to
// it the transpose with dense columns.
struct MatrixProducts::Plan {
  cublasLtMatmulDesc_t description = nullptr;
  Layout a, b, out;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;

  explicit Plan(const Product& p)
      : a(p.dtype, p.a_layout.transposed ? p.m : p.k, p.a_layout.transposed ? p.k : p.m,
          p.a_layout.ld, p.batch, p.a_stride),
        b(p.dtype, p.b_layout.transposed ? p.k : p.n, p.b_layout.transposed ? p.n : p.k,
          p.b_layout.ld, p.batch, p.b_stride),
        out(p.out_dtype, p.n, p.m, p.out_ld, p.batch, p.out_stride) {
    const bool wide = p.dtype == DType::kF64;
    MNEMO_CUDA(cublasLtMatmulDescCreate(&description,
                                        wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                        wide ? CUDA_R_64F : CUDA_R_32F));
    Transpose(CUBLASLT_MATMUL_DESC_TRANSA, p.b_layout.transposed);
    Transpose(CUBLASLT_MATMUL_DESC_TRANSB, p.a_layout.transposed);
  }
  ~Plan() { cublasLtMatmulDescDestroy(description); }

  void Choose(cublasLtHandle_t handle, const Product& p) {
    Preference preference;
    preference.Set<uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // Parts of a long sum meet in f32 and in order, or there are none.
    preference.Set<uint32_t>(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                             CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    preference.Set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                   static_cast<uint32_t>(p.b_alignment()));
    preference.Set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                   static_cast<uint32_t>(p.a_alignment()));
    preference.Set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                   static_cast<uint32_t>(p.c_alignment()));
    preference.Set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                   static_cast<uint32_t>(p.out_alignment()));
    constexpr int kChoices = 8;
    cublasLtMatmulHeuristicResult_t results[kChoices];
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, description, b.handle, a.handle, out.handle,
                                       out.handle, preference.handle, kChoices, results, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return;
    MNEMO_CUDA(status);
    for (int i = 0; i < count && !found; ++i) {
      if (results[i].state != CUBLAS_STATUS_SUCCESS || results[i].workspaceSize > kWorkspaceBytes) {
        continue;
      }
      algorithm = results[i].algo;
      found = true;
    }
  }

 private:
  void Transpose(cublasLtMatmulDescAttributes_t which, bool transposed) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    MNEMO_CUDA(cublasLtMatmulDescSetAttribute(description, which, &operation, sizeof(operation)));
  }
};

MatrixProducts::MatrixProducts(void* workspace) : workspace_(workspace) {
  MNEMO_CUDA(cublasLtCreate(&handle_));
}

MatrixProducts::~MatrixProducts() {
  plans_.clear();
  cublasLtDestroy(handle_);
}

const MatrixProducts::Plan* MatrixProducts::Find(const Product& product, const Key& key) {
  std::unique_ptr<Plan>& plan = plans_[key];
  if (plan == nullptr) {
    plan = std::make_unique<Plan>(product);
    plan->Choose(handle_, product);
  }
  return plan->found ? plan.get() : nullptr;
}

// False if the library has no kernel for it.
bool MatrixProducts::Multiply(const Launch& launch, const Product& p) {
  const Key key{static_cast<int64_t>(p.dtype) * 16 + static_cast<int64_t>(p.out_dtype),
                p.a_layout.transposed * 2 + p.b_layout.transposed,
                p.m,
                p.n,
                p.k,
                p.batch,
                p.a_layout.ld,
                p.b_layout.ld,
                p.out_ld,
                p.a_stride,
                p.b_stride,
                p.out_stride,
                p.a_alignment(),
                p.b_alignment(),
                p.out_alignment(),
                p.c_alignment()};
  const auto alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  const bool wide = p.dtype == DType::kF64;
  std::lock_guard lock(mutex_);
  const Plan* plan = Find(p, key);
  if (plan == nullptr) return false;
  MNEMO_CUDA(cublasLtMatmul(handle_, plan->description,
                            wide ? static_cast<const void*>(&p.alpha) : &alpha, p.b, plan->b.handle,
                            p.a, plan->a.handle, wide ? static_cast<const void*>(&p.beta) : &beta,
                            p.c, plan->out.handle, p.out, plan->out.handle, &plan->algorithm,
                            workspace_, kWorkspaceBytes, launch.stream));
  return true;
}

// a and b have layouts, and out has one that is not transposed. False, before anything is
// computed, if the library has no kernel for it.
bool MatrixProducts::RunBatches(const Launch& launch, const View& a, const View& b, double alpha,
                                double beta, const View& c, const View& out) {
  const BatchDims dims = BatchDimsOf(a, b, out);
  const int last = dims.rank - 1, axes = out.rank;
  Product product{.dtype = a.dtype,
                  .out_dtype = out.dtype,
                  .m = out.shape[axes - 2],
                  .n = out.shape[axes - 1],
                  .k = a.shape[axes - 1],
                  .batch = 0,
                  .a_layout = *LayoutOf(a),
                  .b_layout = *LayoutOf(b),
                  .out_ld = LayoutOf(out)->ld,
                  .a_stride = dims.a[last],
                  .b_stride = dims.b[last],
                  .out_stride = dims.out[last],
                  .a = nullptr,
                  .b = nullptr,
                  .c = nullptr,
                  .out = nullptr,
                  .alpha = alpha,
                  .beta = beta};
  const int64_t count = dims.sizes[last];
  for (int64_t outer = 0; outer < dims.outer(); ++outer) {
    int64_t a_at = 0, b_at = 0, out_at = 0, rest = outer;
    for (int i = 0; i < last; ++i) {
      const int64_t index = rest % dims.sizes[i];
      rest /= dims.sizes[i];
      a_at += index * dims.a[i];
      b_at += index * dims.b[i];
      out_at += index * dims.out[i];
    }
    for (int64_t first = 0; first < count; first += kMostBatches) {
      product.batch = std::min(kMostBatches, count - first);
      product.a = At(a, a_at + first * product.a_stride);
      product.b = At(b, b_at + first * product.b_stride);
      product.c = At(c, out_at + first * product.out_stride);
      product.out = At(out, out_at + first * product.out_stride);
      if (!Multiply(launch, product)) {
        MNEMO_CHECK(outer == 0 && first == 0, "a later batch of one product is refused");
        return false;
      }
    }
  }
  return true;
}

// The same on copies of all three with dense, padded rows.
void MatrixProducts::RunThroughScratch(const Launch& launch, const View& a, const View& b,
                                       double alpha, double beta, const View& c, const View& out,
                                       int64_t padding) {
  const auto copy = [&](const View& x) {
    const View dense = Dense(x, launch.scratch.Take(DenseBytes(x, padding)), padding);
    Copy(launch, x, dense);
    return dense;
  };
  const View packed = Dense(out, launch.scratch.Take(DenseBytes(out, padding)), padding);
  if (beta != 0) Copy(launch, c, packed);
  if (!RunBatches(launch, copy(a), copy(b), alpha, beta, packed, packed)) {
    throw TensorError(Internal(
        "cuBLASLt {} has no kernel for a product [{}, {}] x [{}, {}] of {}, in {} batches",
        cublasLtGetVersion(), a.shape[a.rank - 2], a.shape[a.rank - 1], b.shape[b.rank - 2],
        b.shape[b.rank - 1], Name(a.dtype), BatchDimsOf(a, b, out).outer()));
  }
  Copy(launch, packed, out);
}

void MatrixProducts::Run(const Launch& launch, const View& a, const View& b, double alpha,
                         double beta, const void* c, const View& out) {
  const auto out_layout = LayoutOf(out);
  if (out_layout && out_layout->transposed) {  // out^T = b^T a^T
    return Run(launch, Transposed(b), Transposed(a), alpha, beta, c, Transposed(out));
  }
  if (!out_layout) {
    const View packed = Dense(out, launch.scratch.Take(DenseBytes(out)));
    if (beta != 0) Copy(launch, out, packed);
    Run(launch, a, b, alpha, beta, packed.data, packed);
    return Copy(launch, packed, out);
  }
  View left = LayoutOf(a) ? a : CopyOf(launch, a, kPadding);
  View right = LayoutOf(b) ? b : CopyOf(launch, b, kPadding), result = out;
  FoldBatchIntoRows(&left, &right, &result);
  View addend = result;
  addend.data = const_cast<void*>(c);
  if (BatchDimsOf(left, right, result).outer() > kMostLoops) {
    return RunThroughScratch(launch, left, right, alpha, beta, addend, result, 1);
  }
  if (!RunBatches(launch, left, right, alpha, beta, addend, result)) {
    RunThroughScratch(launch, left, right, alpha, beta, addend, result, kPadding);
  }
}

}  // namespace mnemo::cuda
