#include "src/ckpt/checkpoint_difference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "src/ckpt/manifest.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

std::string KindText(const v1::CheckpointTensor& tensor) {
  return fmt::format("{} {}", Name(DTypeOf(tensor)), ShapeOf(tensor));
}

// One box of two tensors of a kind. `scale`: the largest |a| so far.
void CompareValues(const Tensor& a, const Tensor& b, TensorDifference& difference, double& scale) {
  const std::vector<double> left = a.ToDoubles(), right = b.ToDoubles();
  const auto* left_bytes = static_cast<const char*>(a.raw());
  const auto* right_bytes = static_cast<const char*>(b.raw());
  const auto element = static_cast<size_t>(SizeOf(a.dtype()));
  for (size_t i = 0; i < left.size(); ++i) {
    if (std::isfinite(left[i])) scale = std::max(scale, std::abs(left[i]));
    if (std::memcmp(left_bytes + i * element, right_bytes + i * element, element) == 0) continue;
    ++difference.elements;
    const double distance = left[i] == right[i] ? 0 : std::abs(left[i] - right[i]);
    // Once NaN, always NaN.
    if (!(distance <= difference.largest)) {
      difference.largest = std::isnan(difference.largest) ? difference.largest : distance;
    }
  }
}

absl::StatusOr<TensorDifference> CompareTensor(const CheckpointReader& a, const CheckpointReader& b,
                                               const v1::CheckpointTensor& tensor) {
  TensorDifference difference{.name = tensor.name()};
  double scale = 0;
  for (const v1::CheckpointPiece& piece : tensor.pieces()) {
    MNEMO_ASSIGN_OR_RETURN(const Tensor left, a.ReadBox(tensor.name(), BoxOf(piece)));
    MNEMO_ASSIGN_OR_RETURN(const Tensor right, b.ReadBox(tensor.name(), BoxOf(piece)));
    CompareValues(left, right, difference, scale);
  }
  if (difference.elements > 0) {
    difference.relative = difference.largest == 0 ? 0
                          : scale == 0            ? std::numeric_limits<double>::infinity()
                                                  : difference.largest / scale;
  }
  return difference;
}

}  // namespace

absl::StatusOr<CheckpointDifference> CompareCheckpoints(const CheckpointReader& a,
                                                        const CheckpointReader& b) {
  CheckpointDifference result;
  const v1::CheckpointManifest &left = a.manifest(), &right = b.manifest();
  result.config = ConfigDifferences(left.config(), right.config());
  result.training = ConfigDifferences(left.training(), right.training());
  result.tokenizer = ConfigDifferences(left.tokenizer(), right.tokenizer());
  for (const v1::CheckpointTensor& tensor : left.tensors()) {
    const v1::CheckpointTensor* other = b.Find(tensor.name());
    if (other == nullptr) {
      result.tensors.push_back({.name = tensor.name(), .kind = "only in the first"});
      continue;
    }
    if (KindText(tensor) != KindText(*other)) {
      result.tensors.push_back(
          {.name = tensor.name(),
           .kind = fmt::format("{} and {}", KindText(tensor), KindText(*other))});
      continue;
    }
    ++result.compared;
    MNEMO_ASSIGN_OR_RETURN(TensorDifference difference, CompareTensor(a, b, tensor));
    if (difference.elements > 0) result.tensors.push_back(std::move(difference));
  }
  for (const v1::CheckpointTensor& tensor : right.tensors()) {
    if (a.Find(tensor.name()) == nullptr) {
      result.tensors.push_back({.name = tensor.name(), .kind = "only in the second"});
    }
  }
  return result;
}

}  // namespace mnemo
