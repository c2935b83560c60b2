// How ranks wait for each other's work where nobody can say how long it takes: writing files.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/parallel/communicator.h"

namespace mnemo {

// What Communicator::AllGatherWork says, over the ranks and the channel of `options`. While a rank
// works, a thread of its own sends the others a sign of life four times in options.timeout.
absl::StatusOr<std::vector<std::string>> GatherWork(Transport& transport,
                                                    const CommunicatorOptions& options,
                                                    const std::function<std::string()>& work);

}  // namespace mnemo
