#include "tests/parallel/toy_model.h"

#include <cmath>
#include <numeric>

#include "src/core/status.h"

namespace mnemo {
namespace {

double SumOf(const std::vector<Tensor>& tensors) {
  double sum = 0;
  int place = 1;
  for (const Tensor& tensor : tensors) {
    for (const double value : tensor.ToDoubles()) sum += value * place++;
  }
  return sum;
}

double Mix(Direction direction, const Unit& unit, double row, double carry) {
  const double place = 1 + unit.micro_batch * 0.31 + static_cast<double>(unit.slice) * 0.17 +
                       unit.layer * 0.07 + (direction == Direction::kBackward ? 0.5 : 0);
  return std::sin(place + 0.7 * row + 1.3 * carry);
}

// One to three tensors, the first longer with every slice up to a limit, as a window fills.
std::vector<Tensor> CarryOf(const Unit& unit, double value) {
  const int64_t rows = std::min<int64_t>(unit.slice + 1, 4);
  std::vector<Tensor> carry{Tensor::Full({rows, 3}, value, DType::kF64)};
  if (unit.layer % 2 == 1) carry.push_back(Tensor::Full({}, value / 3, DType::kF32));
  if (unit.layer % 3 == 2) carry.push_back(Tensor::Full({40, 50}, value / 7, DType::kF64));
  return carry;
}

}  // namespace

std::vector<Tensor> ToyModel::Forward(const Unit& unit, std::vector<Tensor> carry) {
  return Run(Direction::kForward, unit, carry);
}

std::vector<Tensor> ToyModel::Backward(const Unit& unit, std::vector<Tensor> carry_adjoint) {
  return Run(Direction::kBackward, unit, carry_adjoint);
}

std::vector<Tensor> ToyModel::Run(Direction direction, const Unit& unit,
                                  const std::vector<Tensor>& carry) {
  if (observer_) observer_(direction, unit, true);
  double& row = rows_[{direction, unit.micro_batch, unit.slice}];
  const bool edge =
      direction == Direction::kForward ? unit.slice == 0 : unit.slice + 1 == shape_.slices;
  MNEMO_CHECK(carry.empty() == edge);
  row = Mix(direction, unit, row, SumOf(carry));
  results_[{direction, unit.micro_batch, unit.slice, unit.layer}] = row;
  std::vector<Tensor> out = CarryOf(unit, row);
  if (observer_) observer_(direction, unit, false);
  return out;
}

ToyResults ToyReference(const ScheduleShape& shape) {
  ToyResults results;
  for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
    const bool forward = direction == Direction::kForward;
    for (int m = 0; m < shape.micro_batches; ++m) {
      std::vector<std::vector<Tensor>> carries(shape.layers);
      for (int64_t i = 0; i < shape.slices; ++i) {
        double row = 0;
        for (int j = 0; j < shape.layers; ++j) {
          const Unit unit{m, forward ? i : shape.slices - 1 - i,
                          forward ? j : shape.layers - 1 - j};
          row = Mix(direction, unit, row, SumOf(carries[unit.layer]));
          results[{direction, m, unit.slice, unit.layer}] = row;
          carries[unit.layer] = CarryOf(unit, row);
        }
      }
    }
  }
  return results;
}

}  // namespace mnemo
