// The planner: what a step will need, worked out before anything runs. A pure function of numbers
// that the caller hands in; knows no models.
#pragma once

#include <cstdint>
#include <string>

#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/plan.pb.h"

namespace mnemo {

// Sizes of one model under one run configuration. Bytes are of one device; "a unit" is one block
// call on the longest slice of one micro-batch.
struct PlanInputs {
  // The step's grid.
  int64_t sequence_length = 1;
  int64_t slice = 1;  // tokens
  int layers = 1;
  int sequences = 1;  // of one micro-batch
  int micro_batches = 1;
  int accumulation = 1;
  v1::Rematerialize rematerialize = v1::UNITS;

  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  int64_t gradient_bytes = 0;
  int64_t optimizer_bytes = 0;

  int64_t input_bytes = 0;  // x of a unit
  int64_t carry_bytes = 0;  // one layer's, of one micro-batch
  // KEEP_ALL only: what the tape of a unit holds, its input and carry included, and that of final
  // norm, head and loss.
  int64_t unit_tape_bytes = 0;
  int64_t head_tape_bytes = 0;
  // What the unit at work needs beside what is kept: tape and temporaries of its backward pass.
  int64_t workspace_bytes = 0;
  int64_t token_bytes = 0;  // ids, targets and losses of one micro-batch's sequences

  double forward_flops_per_token = 0;
  double model_flops_per_token = 0;
};

// The plan of one rank that does everything. A slice that does not divide the sequence leaves a
// shorter last one, which is counted as a whole one.
v1::Plan MakePlan(const PlanInputs& inputs);

// The plan for people, a line for each number, for instance "carries      12.0 MiB".
std::string PrintPlan(const v1::Plan& plan);

// "512 B", "1.5 KiB", "27.0 GiB".
std::string PrintBytes(int64_t bytes);

}  // namespace mnemo
