// A model for schedules: any mistake in order, carries or adjoints changes its numbers. Every unit
// mixes its input, its carry and its place; carries are of several dtypes and of shapes that depend
// on the slice.
#pragma once

#include <functional>
#include <map>
#include <tuple>

#include "src/parallel/unit_schedule.h"

namespace mnemo {

// What each unit computed: (direction, micro-batch, slice, layer) to a number.
using ToyResults = std::map<std::tuple<Direction, int, int64_t, int>, double>;

class ToyModel : public UnitBody {
 public:
  // Called at the start and the end of each unit, if given.
  using Observer = std::function<void(Direction, const Unit&, bool begins)>;

  explicit ToyModel(const ScheduleShape& shape, Observer observer = {})
      : shape_(shape), observer_(std::move(observer)) {}

  std::vector<Tensor> Forward(const Unit& unit, std::vector<Tensor> carry) override;
  std::vector<Tensor> Backward(const Unit& unit, std::vector<Tensor> carry_adjoint) override;
  const ToyResults& results() const { return results_; }

 private:
  std::vector<Tensor> Run(Direction direction, const Unit& unit, const std::vector<Tensor>& carry);

  ScheduleShape shape_;
  Observer observer_;
  std::map<std::tuple<Direction, int, int64_t>, double> rows_;  // between layers
  ToyResults results_;
};

// The same by plain loops over slices and layers, without a schedule.
ToyResults ToyReference(const ScheduleShape& shape);

}  // namespace mnemo
