// Fills in what a run configuration leaves out, so that the effective configuration says
// everything.
#pragma once

#include <string>
#include <vector>

#include "mnemo/v1/config.pb.h"

namespace mnemo {

// Writes the default of every absent field, as the comments of config.proto give them, into the
// message; a memory preset becomes the fields it stands for, and `preset` is cleared. Sections and
// fields that the block does not use are cleared. Filling in twice changes nothing more. Three
// fields stay 0, because they are known only later: model.vocabulary (the tokenizer's),
// execution.threads (all cores of the machine that runs) and, for BLOCK_UNSPECIFIED, what depends
// on the block. Works on any message, even one that CheckConfig would refuse.
void FillDefaults(v1::RunConfig& config);

// Head dim f = width / heads; 0 where heads is not positive.
int64_t HeadDim(const v1::ModelConfig& model);

bool HasMemory(v1::Block block);
bool HasAttention(v1::Block block);

// The fields of MemoryConfig that a preset fixes, as paths from it ("gates.theta_max"), as written
// by the user. Empty without a preset.
std::vector<std::string> FieldsAgainstPreset(const v1::MemoryConfig& memory);

}  // namespace mnemo
