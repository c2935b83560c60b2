// Where a rank stands: the mesh of data parallelism (dp), sequence parallelism (sp) and tensor
// parallelism (tp). Ranks are numbered with tp fastest, then sp, then dp, so that the ranks that
// talk most are neighbours.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace mnemo {

struct MeshPosition {
  int dp = 0, sp = 0, tp = 0;
  bool operator==(const MeshPosition&) const = default;
};

struct Mesh {
  int dp = 1;  // replicas, each with sequences of its own
  int sp = 1;  // ranks that deal the slices of a sequence among them
  int tp = 1;  // ranks that split heads, MLP and vocabulary

  int size() const { return dp * sp * tp; }
  int RankOf(const MeshPosition& position) const;
  MeshPosition PositionOf(int rank) const;  // 0 <= rank < size()

  // The ranks, in order, that differ from `rank` on one axis only, itself included. A rank's place
  // in the list is its coordinate on that axis.
  std::vector<int> SpGroup(int rank) const;
  std::vector<int> TpGroup(int rank) const;
  // Those that hold the same share of the parameters: all of dp x sp, with the rank's tp. Place in
  // the list: dp * sp_size + sp. Gradients are summed and optimizer states sharded over it.
  std::vector<int> DpSpGroup(int rank) const;

  bool operator==(const Mesh&) const = default;
};

// InvalidArgument unless every axis is at least 1 and their product is `ranks`.
absl::Status CheckMesh(const Mesh& mesh, int ranks);

// "dp 2 x sp 4 x tp 1".
std::string ToString(const Mesh& mesh);

}  // namespace mnemo
