// Matrix products through cuBLASLt.
//
// f32 in full f32 (no TF32), f64, and bf16 with f32 sums and an output of bf16 or f32. Which
// algorithm runs is the library's heuristic choice for shapes, strides, dtypes and alignment, asked
// for once and kept: a pure function of these for one version of the library and one kind of GPU.
// Only algorithms that add up in a fixed order are allowed.
#pragma once

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "src/core/cuda/gemm_layout.h"
#include "src/core/cuda/kernels.h"

namespace mnemo::cuda {

// The products of one GPU, which is current in every call. Thread-safe; all calls name one stream.
class MatrixProducts {
 public:
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  // `workspace`: kWorkspaceBytes of the GPU's memory, 256-byte aligned.
  explicit MatrixProducts(void* workspace);
  ~MatrixProducts();
  MatrixProducts(const MatrixProducts&) = delete;

  // Backend::Gemm, with a last dim of a (k) above 0 and a non-empty out. c lies as out does, and is
  // out where out has no MatrixLayout.
  void Run(const Launch& launch, const View& a, const View& b, double alpha, double beta,
           const void* c, const View& out);

 private:
  struct Product;  // one strided batch of products
  struct Plan;     // the library's description of it, and the algorithm
  using Key = std::array<int64_t, 16>;

  void RunThroughScratch(const Launch& launch, const View& a, const View& b, double alpha,
                         double beta, const View& c, const View& out, int64_t padding);
  bool RunBatches(const Launch& launch, const View& a, const View& b, double alpha, double beta,
                  const View& c, const View& out);
  bool Multiply(const Launch& launch, const Product& product);
  const Plan* Find(const Product& product, const Key& key);  // with the mutex held

  cublasLtHandle_t handle_ = nullptr;
  void* const workspace_;
  std::mutex mutex_;  // also keeps the kernels of one product, which share the workspace, together
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace mnemo::cuda
