#include "src/parallel/unit_schedule.h"

#include <map>
#include <ranges>
#include <utility>

#include "src/core/status.h"

namespace mnemo {
namespace {

// What waits at a boundary: keyed by micro-batch and layer, as slices follow each other.
using Boundary = std::map<std::pair<int, int>, std::vector<Tensor>>;

std::vector<Tensor> Take(Boundary& boundary, const Unit& unit) {
  const auto found = boundary.find({unit.micro_batch, unit.layer});
  if (found == boundary.end()) return {};
  std::vector<Tensor> list = std::move(found->second);
  boundary.erase(found);
  return list;
}

}  // namespace

std::vector<Unit> ForwardOrder(const ScheduleShape& shape, int rank) {
  MNEMO_CHECK(rank >= 0 && rank < shape.ranks);
  std::vector<Unit> units;
  for (int64_t slice = rank; slice < shape.slices; slice += shape.ranks) {
    for (int m = 0; m < shape.micro_batches; ++m) {
      for (int layer = 0; layer < shape.layers; ++layer) units.push_back({m, slice, layer});
    }
  }
  return units;
}

void RunForward(const ScheduleShape& shape, UnitBody& body) {
  MNEMO_CHECK(shape.ranks == 1);
  Boundary boundary;
  for (const Unit& unit : ForwardOrder(shape, 0)) {
    std::vector<Tensor> carry = body.Forward(unit, Take(boundary, unit));
    if (unit.slice + 1 < shape.slices) {
      boundary[{unit.micro_batch, unit.layer}] = std::move(carry);
    }
  }
}

void RunBackward(const ScheduleShape& shape, UnitBody& body) {
  MNEMO_CHECK(shape.ranks == 1);
  Boundary boundary;
  const std::vector<Unit> order = ForwardOrder(shape, 0);
  for (const Unit& unit : order | std::views::reverse) {
    std::vector<Tensor> adjoint = body.Backward(unit, Take(boundary, unit));
    if (unit.slice > 0) boundary[{unit.micro_batch, unit.layer}] = std::move(adjoint);
  }
}

}  // namespace mnemo
