#include <numeric>

#include "tests/parallel/rank_worlds.h"

namespace mnemo {

std::unique_ptr<Communicator> MakeWorld(Transport& transport, int channel) {
  CommunicatorOptions options;
  options.ranks.resize(transport.size());
  std::iota(options.ranks.begin(), options.ranks.end(), 0);
  options.channel = {channel, "world"};
  options.timeout = kPatience;
  return MakeHostCommunicator(transport, options);
}

}  // namespace mnemo
