// What a run directory says of the time before its coordinator.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "src/ckpt/checkpoint_directory.h"
#include "src/core/status.h"
#include "src/job/service/service_files.h"

namespace mnemo {
namespace {

using Json = nlohmann::json;

constexpr int64_t kTailBytes = 256 * 1024;  // holds the last line of any model

double NumberAt(const Json& json, const char* name) {
  const auto found = json.find(name);
  if (found == json.end()) return 0;
  return found->is_number() ? found->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

int64_t IntegerAt(const Json& json, const char* name) {
  const auto found = json.find(name);
  return found != json.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

std::optional<v1::StepMetrics> ParseLine(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || IntegerAt(json, "step") < 1) return std::nullopt;
  v1::StepMetrics metrics;
  metrics.set_step(IntegerAt(json, "step"));
  metrics.set_loss(NumberAt(json, "loss"));
  metrics.set_learning_rate(NumberAt(json, "learning_rate"));
  metrics.set_gradient_norm(NumberAt(json, "gradient_norm"));
  metrics.set_skipped(json.value("skipped", Json()) == true);
  metrics.set_skipped_steps(IntegerAt(json, "skipped_steps"));
  metrics.set_tokens(IntegerAt(json, "tokens"));
  metrics.set_tokens_per_second(NumberAt(json, "tokens_per_second"));
  metrics.set_speed_of_light_share(NumberAt(json, "speed_of_light_share"));
  metrics.set_peak_bytes(IntegerAt(json, "peak_bytes"));
  if (json.contains("evaluation_loss")) {
    metrics.set_evaluation_loss(NumberAt(json, "evaluation_loss"));
  }
  return metrics;
}

// Of the last line that is whole; one that a dying process left half written is passed over.
v1::StepMetrics LastMetrics(FileSystem& fs, const std::string& path) {
  const int64_t size = fs.FileSize(path).value_or(0),
                from = std::max<int64_t>(0, size - kTailBytes);
  std::string tail(static_cast<size_t>(size - from), '\0');
  if (tail.empty() || !fs.ReadRange(path, from, tail).ok()) return {};
  for (size_t end = tail.rfind('\n'); end != std::string::npos && end > 0;) {
    const size_t before = tail.rfind('\n', end - 1);
    const size_t begin = before == std::string::npos ? 0 : before + 1;
    if (auto metrics = ParseLine(std::string_view(tail).substr(begin, end - begin))) {
      return *metrics;
    }
    end = before;
  }
  return {};
}

}  // namespace

JobHistory ReadJobHistory(FileSystem& fs, const std::string& run_directory) {
  JobHistory history;
  history.last = LastMetrics(fs, run_directory + "/metrics.jsonl");
  const auto checkpoints =
      ListCheckpoints(fs, fmt::format("{}/{}", run_directory, kCheckpointsName));
  if (checkpoints.ok()) {
    if (const CheckpointEntry* newest = FindNewest(*checkpoints)) {
      history.checkpoint_step = newest->name.step;
    }
  }
  const auto file = ReadCoordinatorFile(fs, run_directory);
  if (!file.ok()) return history;
  history.started_unix_millis = file->started_unix_millis;
  const auto model = fs.List(run_directory + "/model");
  history.model_written = model.ok() && !model->empty();
  return history;
}

}  // namespace mnemo
