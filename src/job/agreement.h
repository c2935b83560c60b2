// How the ranks of a job come to one view of what happened and what comes next. Every rank calls
// these functions, in the same order; a rank alone is answered by itself.
//
// What goes wrong is of two kinds. Agreed: all ranks know the same error and can still talk to each
// other. Aborted: one rank failed while the others were at work; it called Ranks::Abort, and their
// next wait ends with its reason.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/parallel/ranks.h"

namespace mnemo {

// The results of all ranks, by rank; or the error of the first rank that has one, on all ranks.
// Of a rank other than the first it says which rank, and on which host. Where the ranks cannot talk
// to each other any more, they are aborted.
absl::StatusOr<std::vector<std::string>> Exchange(Ranks& ranks,
                                                  const absl::StatusOr<std::string>& mine);
// The same over `group`, which holds all ranks: world() or, for the thread that saves, saves().
absl::StatusOr<std::vector<std::string>> Exchange(Ranks& ranks, Communicator& group,
                                                  const absl::StatusOr<std::string>& mine);
// The same of what `work` makes, at the door (src/model/door.h), for which the others wait however
// long it takes, as long as its rank is alive: reading and writing of files.
absl::StatusOr<std::vector<std::string>> ExchangeWork(
    Ranks& ranks, Communicator& group, const std::function<absl::StatusOr<std::string>()>& work);
// Exchange where there is nothing to say but whether all is well.
absl::Status Agree(Ranks& ranks, const absl::Status& mine);

// Of an error that every rank has returned: whether it is for this one to tell the user. That is so
// on exactly one rank, but where several failed by themselves at the same moment. `aborted` is the
// transport's status.
bool ShouldTell(int rank, const absl::Status& aborted);

// What ranks may ask of each other between two steps.
struct StepWishes {
  bool stop = false;
  bool save = false;
};
// In: this rank's. Out: what any rank wishes.
absl::Status AgreeOnWishes(Ranks& ranks, StepWishes& wishes);

// For one message between ranks: parallel.timeout_seconds, filled in or not.
Timeout MessageTimeout(const v1::RunConfig& config);

}  // namespace mnemo
