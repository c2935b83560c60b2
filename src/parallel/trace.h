// What the ranks of an sp axis did in a step, put together.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "src/parallel/communicator.h"
#include "src/parallel/unit_schedule.h"

namespace mnemo {

// The traces of all ranks of the group, in order, on every one of them; every rank calls it. Times
// can be compared where the ranks share a clock: threads, and processes of one machine.
absl::StatusOr<std::vector<std::vector<UnitSpan>>> GatherTraces(Communicator& group,
                                                                const std::vector<UnitSpan>& own);

// Internal, naming the unit, unless the traces are those of whole wavefronts in which every rank
// ran its units in the order of the schedule, one after the other, and none began before what it
// reads was there.
absl::Status CheckTraces(const ScheduleShape& shape,
                         const std::vector<std::vector<UnitSpan>>& ranks);

}  // namespace mnemo
