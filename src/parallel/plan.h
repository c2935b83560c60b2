// The planner: how ranks share a step and what it will need, worked out before anything runs. A
// pure function of numbers that the caller hands in; knows no models.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/plan.pb.h"
#include "src/parallel/mesh.h"
#include "src/parallel/unit_schedule.h"

namespace mnemo {

// Sizes of one model under one run configuration, as one of `tp` ranks sees them. Bytes are of one
// device; "a unit" is one block call on the longest slice of one micro-batch.
struct PlanInputs {
  // The step's grid.
  int64_t sequence_length = 1;
  int64_t slice = 1;  // tokens
  int layers = 1;
  int sequences = 1;  // of one micro-batch
  int micro_batches = 1;
  int accumulation = 1;
  v1::Rematerialize rematerialize = v1::UNITS;
  bool whole_sequences = false;  // attention without a window: one slice, on one rank
  int zero = 1;                  // 1: optimizer state is sharded over dp x sp

  int tp = 1;
  int64_t parameters = 0;  // of the whole model
  int64_t weight_bytes = 0;
  int64_t compute_copy_bytes = 0;  // of weights, in the dtype of activations
  int64_t gradient_bytes = 0;
  int64_t optimizer_bytes = 0;  // all shards together
  // What dp x sp ranks save together, where it is copied to host memory first, and whether that is
  // where all other tensors are.
  int64_t snapshot_bytes = 0;
  bool on_host = true;

  int64_t input_bytes = 0;  // x of a unit
  int64_t carry_bytes = 0;  // one layer's, of one micro-batch
  // KEEP_ALL only: what the tape of a unit holds, its input and carry included, and that of final
  // norm, head and loss.
  int64_t unit_tape_bytes = 0;
  int64_t head_tape_bytes = 0;
  // What the unit at work needs beside what is kept: tape and temporaries of its backward pass.
  int64_t workspace_bytes = 0;
  int64_t token_bytes = 0;       // ids, targets and losses of one micro-batch's sequences
  int64_t read_ahead_bytes = 0;  // tokens of the step to come, on the whole sequence's rank
  int64_t cache_bytes = 0;       // that the allocator keeps for reuse at the fullest moment
  int64_t process_bytes = 0;     // of a rank that has not begun

  double forward_flops_per_token = 0;
  double model_flops_per_token = 0;
};

struct PlanOptions {
  std::optional<int64_t> memory_limit;  // bytes; a mesh whose fullest rank needs more is illegal
  std::optional<EdgeSlots> slots;       // of hand-offs; default: as many as full speed needs
};

// The plan on a given mesh, its memory that of the fullest rank. InvalidArgument, saying which
// setting to change, where the mesh does not suit: no share for a replica or a rank, sequences that
// cannot be cut, too few slots. ResourceExhausted above the memory limit. A slice that does not
// divide the sequence leaves a shorter last one, which is counted as a whole one. The busy fraction
// is the closed form's (StepTicks).
absl::StatusOr<v1::Plan> MakePlan(const PlanInputs& inputs, const Mesh& mesh = {},
                                  const PlanOptions& options = {});

// The plan on the mesh of `ranks` ranks that takes the least time, by its schedule; among equals
// the one that needs least memory. Axes that `wanted` gives are kept; tp is inputs.tp. The busy
// fraction is that of Simulate. One error says what was tried, and what would be legal.
absl::StatusOr<v1::Plan> ChoosePlan(const PlanInputs& inputs, const v1::ParallelConfig& wanted,
                                    int ranks, const PlanOptions& options = {});

inline constexpr int kMostRanks = 1 << 20;
// The fewest ranks that the given axes allow: their product, open ones (0) counted as 1; at most
// kMostRanks.
int FewestRanks(const v1::ParallelConfig& wanted);

// The part of the total that is tensors: what a backend's Memory() counts.
int64_t TensorBytes(const v1::MemoryEstimate& memory);

Mesh MeshOf(const v1::Plan& plan);
// The schedule of one replica's wavefront.
ScheduleShape ShapeOf(const v1::Plan& plan);

// XXH3-64 of the plan's deterministic serialisation; never 0, which stands for "none yet".
uint64_t PlanDigest(const v1::Plan& plan);

// The plan for people, a line for each number, for instance "carries      12.0 MiB".
std::string PrintPlan(const v1::Plan& plan);

// "512 B", "1.5 KiB", "27.0 GiB".
std::string PrintBytes(int64_t bytes);

}  // namespace mnemo
