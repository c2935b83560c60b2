// The account of the slots of one edge in one direction. A slot is taken when the unit that will
// fill it starts, and freed when the unit that reads it has ended. The real relay and the
// simulation keep the same account.
#pragma once

#include <algorithm>
#include <cstdint>

#include "src/core/status.h"

namespace mnemo {

class SlotLedger {
 public:
  explicit SlotLedger(int slots) : slots_(slots) { MNEMO_CHECK(slots >= 0); }

  int slots() const { return slots_; }
  int taken() const { return static_cast<int>(taken_ - freed_); }
  int peak() const { return peak_; }
  bool CanTake() const { return taken() < slots_; }

  // Returns the number of the hand-off, from 0: it uses slot number % slots.
  int64_t Take() {
    MNEMO_CHECK(CanTake());
    const int64_t number = taken_++;
    peak_ = std::max(peak_, taken());
    return number;
  }
  void Free() {
    MNEMO_CHECK(taken() > 0);
    ++freed_;
  }

 private:
  int slots_;
  int64_t taken_ = 0, freed_ = 0;
  int peak_ = 0;
};

}  // namespace mnemo
