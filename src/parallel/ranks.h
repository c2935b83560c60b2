// One rank's place in the mesh, and its means of talking to the others.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "src/core/peers.h"
#include "src/parallel/communicator.h"
#include "src/parallel/mesh.h"
#include "src/parallel/relay.h"
#include "src/parallel/transport.h"

namespace mnemo {

// Wavefronts of one dp replica. A step's accumulation x micro-batches are dealt to the replicas:
// first the wavefronts, then, where they do not suffice, the micro-batches of each.
struct ReplicaShare {
  int accumulation = 1;
  int micro_batches = 1;
};
// InvalidArgument unless dp divides their product in this way.
absl::StatusOr<ReplicaShare> ShareOfReplica(int dp, int accumulation, int micro_batches);

// One thread at a time, but for what is said at saves().
class Ranks {
 public:
  // A single rank that does everything.
  static std::unique_ptr<Ranks> Alone();
  // Every rank of the transport calls it with the same mesh, whose size is the transport's. The
  // transport outlives the result. `timeout` is for one message of a collective or of the relay:
  // as long as ranks may lie apart, with loading and evaluation in between.
  static absl::StatusOr<std::unique_ptr<Ranks>> Create(Transport& transport, const Mesh& mesh,
                                                       Timeout timeout = std::chrono::minutes(10));
  ~Ranks();

  const Mesh& mesh() const { return mesh_; }
  const MeshPosition& position() const { return position_; }
  int rank() const;
  int size() const { return mesh_.size(); }
  bool alone() const { return size() == 1; }
  // One rank speaks for all: writes metrics, manifest and messages.
  bool first() const { return rank() == 0; }

  Communicator& world() { return *world_; }
  // The same ranks, on a channel of its own: for one other thread, which saves what training has
  // left behind. Messages of the two do not meet, whatever order they come in. That thread may also
  // call rank, first, size, Abort and status.
  Communicator& saves() { return *saves_; }
  // dp x sp: those that hold the same share of the parameters.
  Communicator& replicas() { return *replicas_; }
  // The tp axis: those that hold a part each of the same units' parameters; and the same as the
  // computation sees it (null if there is one). What fails throws, with the reason as its Status.
  Communicator& parts() { return *parts_; }
  Peers* peers() { return peers_.get(); }
  // A relay between the ranks of this one's sp axis, with slots for full speed. One at a time.
  std::unique_ptr<Relay> MakeRelay(const ScheduleShape& shape);

  // Ends every wait of every rank with the reason.
  void Abort(const absl::Status& why);
  absl::Status status() const { return transport_->status(); }  // OK until aborted by any rank

 private:
  Ranks(const Mesh& mesh, Transport* transport, Timeout timeout);
  class Solitude;  // the transport of a single rank

  Mesh mesh_;
  MeshPosition position_;
  std::unique_ptr<Solitude> solitude_;
  Transport* transport_;
  Timeout timeout_;
  std::unique_ptr<Communicator> world_, replicas_, parts_, saves_;
  std::unique_ptr<Peers> peers_;
};

}  // namespace mnemo
