#include "src/parallel/ranks.h"

#include <numeric>
#include <utility>

#include "src/core/status.h"
#include "src/parallel/thread_transport.h"

namespace mnemo {
namespace {

// Channels of the communicators; the relay's begin at TransportRelayOptions::first_channel.
constexpr int kWorldChannel = 0, kReplicasChannel = 1, kPartsChannel = 2, kSavesChannel = 3;

class CommunicatorPeers : public Peers {
 public:
  explicit CommunicatorPeers(Communicator& group) : group_(group) {}
  int count() const override { return group_.size(); }
  int index() const override { return group_.rank(); }
  void Sum(const Tensor& x) override {
    const absl::Status status = group_.AllReduceSum(x);
    if (!status.ok()) throw TensorError(status);
  }

 private:
  Communicator& group_;
};

}  // namespace

absl::StatusOr<ReplicaShare> ShareOfReplica(int dp, int accumulation, int micro_batches) {
  const int wavefronts = std::gcd(dp, accumulation), rest = dp / wavefronts;
  if (micro_batches % rest != 0) {
    return InvalidArgument(
        "{} replicas (dp) cannot share train.accumulation = {} wavefronts of train.micro_batches "
        "= {}: dp must be a product of divisors of the two; change one of them",
        dp, accumulation, micro_batches);
  }
  return ReplicaShare{accumulation / wavefronts, micro_batches / rest};
}

class Ranks::Solitude {
 public:
  Transport& transport() { return world_.rank(0); }

 private:
  ThreadWorld world_{1};
};

Ranks::Ranks(const Mesh& mesh, Transport* transport, Timeout timeout)
    : mesh_(mesh), transport_(transport), timeout_(timeout) {
  if (transport_ == nullptr) {
    solitude_ = std::make_unique<Solitude>();
    transport_ = &solitude_->transport();
  }
  position_ = mesh_.PositionOf(rank());
  std::vector<int> all(size());
  std::iota(all.begin(), all.end(), 0);
  const auto communicator = [&](std::vector<int> ranks, int channel, const char* name) {
    return MakeHostCommunicator(*transport_, {std::move(ranks), {channel, name}, timeout_});
  };
  world_ = communicator(all, kWorldChannel, "world");
  saves_ = communicator(all, kSavesChannel, "saves");
  replicas_ = communicator(mesh_.DpSpGroup(rank()), kReplicasChannel, "dp x sp");
  parts_ = communicator(mesh_.TpGroup(rank()), kPartsChannel, "tp");
  if (mesh_.tp > 1) peers_ = std::make_unique<CommunicatorPeers>(*parts_);
}

Ranks::~Ranks() = default;

std::unique_ptr<Ranks> Ranks::Alone() {
  return std::unique_ptr<Ranks>(new Ranks({}, nullptr, kLivenessTimeout));
}

absl::StatusOr<std::unique_ptr<Ranks>> Ranks::Create(Transport& transport, const Mesh& mesh,
                                                     Timeout timeout) {
  MNEMO_RETURN_IF_ERROR(CheckMesh(mesh, transport.size()));
  return std::unique_ptr<Ranks>(new Ranks(mesh, &transport, timeout));
}

int Ranks::rank() const { return transport_->rank(); }

std::unique_ptr<Relay> Ranks::MakeRelay(const ScheduleShape& shape) {
  if (mesh_.sp == 1) return MakeLocalRelay(shape, SlotsForFullSpeed(shape));
  TransportRelayOptions options;
  options.shape = shape;
  options.ranks = mesh_.SpGroup(rank());
  options.slots = SlotsForFullSpeed(shape);
  options.timeout = timeout_;
  return MakeTransportRelay(*transport_, options);
}

void Ranks::Abort(const absl::Status& why) { transport_->Abort(why); }

}  // namespace mnemo
