// Speed of single kernels, beside what the device gives at most.
//
// Kernels are called through Backend and the fused ops, as training calls them. What an op moves
// are the bytes of its inputs and outputs, each once; its FLOP (multiply-add = 2) are those of its
// definition, whatever an implementation computes again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "src/core/tensor.h"

namespace mnemo {

// What large products and large copies reach, measured: per second.
struct Ceilings {
  double flops = 0;
  double bytes = 0;  // read and written
};

enum class OpKind { kProduct, kPrimitive, kFusedForward, kFusedBackward };
const char* Name(OpKind kind);

struct OpTime {
  std::string name{};   // "mlp up"
  std::string shape{};  // "[32768, 1024] x [1024, 2816]"; empty where the name says it
  std::string model{};  // whose shapes these are; empty where there is but one
  OpKind kind = OpKind::kPrimitive;
  double seconds = 0;  // one call
  double flops = 0, bytes = 0;
  bool composed = false;  // a fused op that ran as its composition

  // The least time that the ceilings allow for its FLOP or for its bytes, over what it took: its
  // share of the roofline min(flops, intensity * bytes). Above 1 where caches help.
  double Share(const Ceilings& ceilings) const {
    return std::max(flops / ceilings.flops, bytes / ceilings.bytes) / seconds;
  }
};
using ReportOp = std::function<void(const OpTime&)>;

// The CPU's kernels at the shapes that training runs there most: 32 heads, chunks of 64 tokens,
// keys of 64, hidden layers of 256. The fastest of many calls, with the threads of the calling
// thread; takes about ten seconds.
void BenchOps(DType dtype, const ReportOp& report);

// What decides the shapes of a model's kernels.
struct ModelOpShapes {
  std::string name;
  int64_t batch, length;  // sequences and tokens of each
  int64_t width, mlp, vocabulary;
  int64_t heads;   // of attention; those of the memory have memory_dim features
  int64_t window;  // of windowed attention
  int64_t memory_dim, memory_hidden, chunk;  // depth 2
  int64_t vocabulary_tile;
};
// TRANSFORMER and LMM of 375M (8 x 4096 tokens) and 1.36B parameters (4 x 4096).
std::vector<ModelOpShapes> LargeModelOpShapes();

// Every family of primitives, the matrix products and the fused ops, forward and backward, of a
// model trained in bf16 on `device`. Medians of many calls, the device waited for after each lot of
// them. Takes some ten seconds on a GPU. Throws TensorError as the ops do.
void BenchModelOps(const ModelOpShapes& shapes, Device device, const ReportOp& report);

}  // namespace mnemo
