// What `mnemo ckpt` says of checkpoints and of their differences.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "mnemo/v1/checkpoint.pb.h"
#include "src/ckpt/checkpoint_difference.h"
#include "src/ckpt/checkpoint_reader.h"

namespace mnemo {

std::string Megabytes(int64_t bytes);        // "12.3 MB"
std::string TimeText(int64_t unix_seconds);  // "2026-11-23T12:00:00Z"

// Where it was measured; nothing elsewhere.
void AddHeldOutLoss(const v1::TrainingState& training, nlohmann::ordered_json& json);
std::string HeldOutLossText(const v1::TrainingState& training);  // ", held-out loss 2.3456"

// `tensors`: every tensor has a line.
void PrintCheckpoint(const CheckpointReader& reader, bool tensors);
nlohmann::ordered_json CheckpointJson(const CheckpointReader& reader);

void PrintDifference(const CheckpointDifference& found);
// Numbers that JSON has no form for come as null.
nlohmann::ordered_json DifferenceJson(const CheckpointReader& a, const CheckpointReader& b,
                                      const CheckpointDifference& found);

}  // namespace mnemo
