// The order in which units of work run, and the loop that runs them.
//
// A unit is one block call: (micro-batch, slice, layer). Slices are dealt to the R ranks of the sp
// axis in turn, slice s to rank s mod R. Unit (m, s, l) needs (m, s, l - 1) on the same rank and
// (m, s - 1, l) on the left neighbour: what passes between them is the carry. Each rank runs its
// units in one static order: by turn, then micro-batch, then layer; the backward pass is the mirror
// image and passes adjoints of the carry from right to left.
#pragma once

#include <cstdint>
#include <vector>

#include "src/core/tensor.h"

namespace mnemo {

struct Unit {
  int micro_batch = 0;
  int64_t slice = 0;
  int layer = 0;
  bool operator==(const Unit&) const = default;
};

struct ScheduleShape {
  int64_t slices = 1;     // S
  int ranks = 1;          // R
  int layers = 1;         // L
  int micro_batches = 1;  // M
};

// A rank's units in forward order; the backward order is its reverse.
std::vector<Unit> ForwardOrder(const ScheduleShape& shape, int rank);

// What a schedule runs. Carries travel as flat lists of tensors; an empty list is no carry (the
// first slice) or, backward, no adjoint (the last slice).
class UnitBody {
 public:
  virtual ~UnitBody() = default;
  virtual std::vector<Tensor> Forward(const Unit& unit, std::vector<Tensor> carry) = 0;
  virtual std::vector<Tensor> Backward(const Unit& unit, std::vector<Tensor> carry_adjoint) = 0;
};

// One rank, R = 1: carries go through a local table.
void RunForward(const ScheduleShape& shape, UnitBody& body);
void RunBackward(const ScheduleShape& shape, UnitBody& body);

}  // namespace mnemo
