#include "src/core/primitives.h"

#include "src/core/status.h"

namespace mnemo {

const char* Name(Primitive primitive) {
  static constexpr const char* kNames[] = {
      "negate",
      "exp",
      "log",
      "sqrt",
      "rsqrt",
      "reciprocal",
      "sigmoid",
      "tanh",
      "relu",
      "silu",
      "silu_grad",
      "silu_grad2",
      "gelu",
      "gelu_grad",
      "gelu_grad2",
      "affine",
      "add",
      "sub",
      "mul",
      "div",
      "where",
      "cast",
      "sum_to",
      "broadcast_to",
      "matmul",
      "add_matmul",
      "reshape",
      "permute",
      "slice",
      "pad_slice",
      "split",
      "concat",
      "linear_scan",
      "softmax",
      "depthwise_conv",
      "depthwise_conv_weight_grad",
      "gather_rows",
      "scatter_add_rows",
      "pick_columns",
      "place_columns",
      "spread_to_peers",
      "sum_over_peers",
      "rematerialized",
      "fused",
  };
  static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<size_t>(Primitive::kCount));
  MNEMO_CHECK(primitive < Primitive::kCount);
  return kNames[static_cast<int>(primitive)];
}

}  // namespace mnemo
