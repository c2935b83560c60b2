#include "src/job/metrics.h"

#include <nlohmann/json.hpp>

#include "src/core/status.h"

namespace mnemo {
namespace {

using Json = nlohmann::ordered_json;  // the order of docs/metrics.md; NaN is written as null

Json SecondsOf(const v1::PhaseSeconds& seconds) {
  return {{"data", seconds.data()},
          {"forward", seconds.forward()},
          {"backward", seconds.backward()},
          {"optimizer", seconds.optimizer()},
          {"evaluation", seconds.evaluation()}};
}

Json LayersOf(const v1::StepMetrics& metrics) {
  Json layers = Json::array();
  for (const v1::LayerMetrics& layer : metrics.layers()) {
    layers.push_back({{"theta", layer.theta()},
                      {"eta", layer.eta()},
                      {"alpha", layer.alpha()},
                      {"state_norm", layer.state_norm()},
                      {"clamp_hits", layer.clamp_hits()}});
  }
  return layers;
}

Json FusedOf(const v1::StepMetrics& metrics) {
  Json fused = Json::object();
  for (const v1::FusedOpCount& op : metrics.fused()) {
    fused[op.name()] = {
        {"kernel", op.kernel()}, {"composed", op.composed()}, {"fallback", op.fallback()}};
  }
  return fused;
}

}  // namespace

std::string MetricsLine(const v1::StepMetrics& metrics) {
  Json line = {{"step", metrics.step()},
               {"loss", metrics.loss()},
               {"learning_rate", metrics.learning_rate()},
               {"gradient_norm", metrics.gradient_norm()},
               {"skipped", metrics.skipped()},
               {"skipped_steps", metrics.skipped_steps()},
               {"tokens", metrics.tokens()},
               {"tokens_per_second", metrics.tokens_per_second()},
               {"speed_of_light_share", metrics.speed_of_light_share()},
               {"seconds", SecondsOf(metrics.seconds())},
               {"peak_bytes", metrics.peak_bytes()}};
  if (metrics.has_evaluation_loss()) line["evaluation_loss"] = metrics.evaluation_loss();
  line["layers"] = LayersOf(metrics);
  line["fused"] = FusedOf(metrics);
  return line.dump();
}

absl::StatusOr<MetricsWriter> MetricsWriter::Create(FileSystem& fs, const std::string& path) {
  std::unique_ptr<WritableFile> file;
  MNEMO_ASSIGN_OR_RETURN(file, fs.Create(path));
  return MetricsWriter(std::move(file));
}

absl::Status MetricsWriter::Write(const v1::StepMetrics& metrics) {
  return file_->Append(MetricsLine(metrics) + "\n");
}

absl::Status MetricsWriter::Close() {
  MNEMO_RETURN_IF_ERROR(file_->Sync());
  return file_->Close();
}

}  // namespace mnemo
