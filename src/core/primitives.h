// The primitive operations: each has a shape rule and a derivative (ops_*.cc), a kernel per backend
// (backend.h) and test cases. The registry test walks this list and fails if one has no case.
#pragma once

#include <cstdint>

namespace mnemo {

enum class Primitive : uint8_t {
  kNegate,
  kExp,
  kLog,
  kSqrt,
  kRsqrt,
  kReciprocal,
  kSigmoid,
  kTanh,
  kRelu,
  kSilu,
  kSiluGrad,
  kSiluGrad2,
  kGelu,
  kGeluGrad,
  kGeluGrad2,
  kAffine,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kWhere,
  kCast,
  kSumTo,
  kBroadcastTo,
  kMatMul,
  kAddMatMul,
  kReshape,
  kPermute,
  kSlice,
  kPadSlice,
  kSplit,
  kConcat,
  kLinearScan,
  kSoftmax,
  kDepthwiseConv,
  kDepthwiseConvWeightGrad,
  kGatherRows,
  kScatterAddRows,
  kPickColumns,
  kPlaceColumns,
  kSpreadToPeers,
  kSumOverPeers,
  kRematerialized,  // Tape-level: Rematerialized() in tape.h
  kFused,           // Tape-level: a fused op's own kernel, fused_op.h
  kCount,
};

const char* Name(Primitive primitive);

}  // namespace mnemo
