#include "src/parallel/mesh.h"

#include "src/core/status.h"

namespace mnemo {

int Mesh::RankOf(const MeshPosition& position) const {
  MNEMO_CHECK(position.dp >= 0 && position.dp < dp);
  MNEMO_CHECK(position.sp >= 0 && position.sp < sp);
  MNEMO_CHECK(position.tp >= 0 && position.tp < tp);
  return (position.dp * sp + position.sp) * tp + position.tp;
}

MeshPosition Mesh::PositionOf(int rank) const {
  MNEMO_CHECK(rank >= 0 && rank < size(), "rank {} of {}", rank, size());
  return {rank / (sp * tp), rank / tp % sp, rank % tp};
}

std::vector<int> Mesh::SpGroup(int rank) const {
  MeshPosition at = PositionOf(rank);
  std::vector<int> group;
  for (at.sp = 0; at.sp < sp; ++at.sp) group.push_back(RankOf(at));
  return group;
}

std::vector<int> Mesh::TpGroup(int rank) const {
  MeshPosition at = PositionOf(rank);
  std::vector<int> group;
  for (at.tp = 0; at.tp < tp; ++at.tp) group.push_back(RankOf(at));
  return group;
}

std::vector<int> Mesh::DpSpGroup(int rank) const {
  MeshPosition at = PositionOf(rank);
  std::vector<int> group;
  for (at.dp = 0; at.dp < dp; ++at.dp) {
    for (at.sp = 0; at.sp < sp; ++at.sp) group.push_back(RankOf(at));
  }
  return group;
}

absl::Status CheckMesh(const Mesh& mesh, int ranks) {
  if (mesh.dp < 1 || mesh.sp < 1 || mesh.tp < 1) {
    return InvalidArgument("mesh {}: every axis must be at least 1", ToString(mesh));
  }
  if (int64_t{mesh.dp} * mesh.sp * mesh.tp != ranks) {
    return InvalidArgument(
        "mesh {} takes {} ranks, but {} are running; start as many, or change the mesh",
        ToString(mesh), int64_t{mesh.dp} * mesh.sp * mesh.tp, ranks);
  }
  return absl::OkStatus();
}

std::string ToString(const Mesh& mesh) {
  return fmt::format("dp {} x sp {} x tp {}", mesh.dp, mesh.sp, mesh.tp);
}

}  // namespace mnemo
