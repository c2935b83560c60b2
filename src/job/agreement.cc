#include "src/job/agreement.h"

#include <chrono>
#include <cstdlib>
#include <span>

#include "src/core/host.h"
#include "src/core/status.h"
#include "src/model/door.h"

namespace mnemo {
namespace {

// What a rank has to say to the others: its error, or its result.
std::string Pack(const absl::StatusOr<std::string>& result, const Ranks& ranks) {
  if (result.ok()) return "+" + *result;
  const std::string who =
      ranks.first() ? "" : fmt::format("rank {} on {}: ", ranks.rank(), HostName());
  return fmt::format("-{} {}{}", static_cast<int>(result.status().code()), who,
                     std::string(result.status().message()));
}

absl::StatusOr<std::string> Unpack(const std::string& text) {
  if (text.starts_with('+')) return text.substr(1);
  const size_t space = text.find(' ');
  return absl::Status(static_cast<absl::StatusCode>(std::atoi(text.c_str() + 1)),
                      text.substr(space + 1));
}

// Of all ranks, which are aborted where they could not talk.
absl::StatusOr<std::vector<std::string>> Unpack(Ranks& ranks,
                                                absl::StatusOr<std::vector<std::string>> all) {
  if (!all.ok()) {
    ranks.Abort(all.status());
    return all;
  }
  for (std::string& text : *all) {
    MNEMO_ASSIGN_OR_RETURN(text, Unpack(text));
  }
  return all;
}

}  // namespace

Timeout MessageTimeout(const v1::RunConfig& config) {
  const int seconds = config.parallel().timeout_seconds();
  return std::chrono::seconds(seconds > 0 ? seconds : 600);
}

absl::StatusOr<std::vector<std::string>> Exchange(Ranks& ranks,
                                                  const absl::StatusOr<std::string>& mine) {
  return Exchange(ranks, ranks.world(), mine);
}

absl::StatusOr<std::vector<std::string>> Exchange(Ranks& ranks, Communicator& group,
                                                  const absl::StatusOr<std::string>& mine) {
  return Unpack(ranks, group.AllGatherStrings(Pack(mine, ranks)));
}

absl::StatusOr<std::vector<std::string>> ExchangeWork(
    Ranks& ranks, Communicator& group, const std::function<absl::StatusOr<std::string>()>& work) {
  return Unpack(ranks, group.AllGatherWork([&] { return Pack(AtTheDoor(work), ranks); }));
}

absl::Status Agree(Ranks& ranks, const absl::Status& mine) {
  if (mine.ok()) return Exchange(ranks, std::string()).status();
  return Exchange(ranks, mine).status();
}

bool ShouldTell(int rank, const absl::Status& aborted) {
  if (aborted.ok()) return rank == 0;
  return std::string(aborted.message()).starts_with(fmt::format("rank {} failed: ", rank));
}

absl::Status AgreeOnWishes(Ranks& ranks, StepWishes& wishes) {
  double asked[] = {wishes.stop ? 1.0 : 0.0, wishes.save ? 1.0 : 0.0};
  const absl::Status status = ranks.world().AllReduceSum(std::span<double>(asked));
  if (!status.ok()) {
    ranks.Abort(status);
    return status;
  }
  wishes = {asked[0] > 0, asked[1] > 0};
  return absl::OkStatus();
}

}  // namespace mnemo
