#include "src/data/recorded_inputs.h"

#include <algorithm>
#include <unordered_map>

namespace mnemo {
namespace {

using ByPath = std::unordered_map<std::string_view, const PreparedInput*>;

ByPath Index(const std::vector<PreparedInput>& inputs) {
  ByPath index;
  for (const PreparedInput& input : inputs) index[input.path] = &input;
  return index;
}

}  // namespace

std::vector<PreparedInput> RecordInputs(const std::vector<InputFile>& files) {
  std::vector<PreparedInput> inputs;
  for (const InputFile& file : files) inputs.push_back({file.path, file.size, file.modified});
  return inputs;
}

bool SurelyTheSame(const std::vector<PreparedInput>& before,
                   const std::vector<PreparedInput>& now) {
  return before == now && std::none_of(now.begin(), now.end(), [](const PreparedInput& input) {
           return input.modified < 0;
         });
}

std::string FirstDifference(const std::vector<PreparedInput>& before,
                            const std::vector<PreparedInput>& now) {
  if (before.empty()) return "";
  const ByPath then = Index(before), here = Index(now);
  std::string touched;
  for (const PreparedInput& input : before) {
    const auto found = here.find(input.path);
    if (found == here.end()) return input.path + " is gone";
    if (*found->second == input) continue;
    const std::string changed = input.path + " has changed";
    if (found->second->size != input.size) return changed;
    if (touched.empty()) touched = changed;
  }
  for (const PreparedInput& input : now) {
    if (!then.contains(input.path)) return input.path + " is new";
  }
  if (!touched.empty()) return touched;
  return before == now ? "" : "the files come in another order";
}

}  // namespace mnemo
