// The schedule on a fake clock: how long a step takes and where it waits, without running it. The
// same order (PassOrder), the same edges and the same account of slots (SlotLedger) as the real
// thing.
#pragma once

#include <cstdint>
#include <vector>

#include "src/parallel/unit_schedule.h"

namespace mnemo {

struct SimulationOptions {
  int64_t forward_ticks = 1;   // t_f, of a unit
  int64_t backward_ticks = 1;  // t_b
  int64_t hop_ticks = 0;       // from the end of a unit to its carry's arrival
  EdgeSlots slots;
  int wavefronts = 1;  // steps of forward and backward pass, one after the other
};

struct Simulation {
  bool deadlock = false;                     // then the rest is up to that point
  int64_t ticks = 0;                         // from the first unit's start to the last one's end
  double busy = 0;                           // time in units, over ticks x ranks
  std::vector<std::vector<UnitSpan>> ranks;  // what each rank ran, in order
  EdgeSlots peak;                            // most slots taken at once
};

Simulation Simulate(const ScheduleShape& shape, const SimulationOptions& options);

// The step of a simulation with no hop time and slots for full speed, in closed form:
// ((ceil(S / R) - 1) max(L * M, R) + L * M + (S - 1) mod R) (t_f + t_b).
int64_t StepTicks(const ScheduleShape& shape, int64_t forward_ticks, int64_t backward_ticks);

// Share of the time from the first begin to the last end that the ranks spent in units; for traces
// of simulated and of real steps. 0 if there are none.
double BusyFraction(const std::vector<std::vector<UnitSpan>>& ranks);

}  // namespace mnemo
