// Which parameters a model has, and what each begins with.
#pragma once

#include <string>
#include <vector>

#include "src/model/parameters.h"

namespace mnemo {

// How first values are drawn.
struct FirstValues {
  enum class Kind { kConstant, kNormal, kLogSpacedAlpha } kind = Kind::kConstant;
  double value = 0;  // the constant, or the deviation
};

struct ParameterDescription {
  ParameterInfo info;
  FirstValues first;
};

// Embedding, layers in order, final norm, head.
std::vector<ParameterDescription> LayOutParameters(const ModelSpec& spec);

}  // namespace mnemo
