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
          {"evaluation", seconds.evaluation()},
          {"wait", seconds.wait()},
          {"checkpoint", seconds.checkpoint()},
          {"checkpoint_wait", seconds.checkpoint_wait()}};
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
               {"peak_bytes", metrics.peak_bytes()},
               {"failed_saves", metrics.failed_saves()}};
  if (metrics.has_evaluation_loss()) line["evaluation_loss"] = metrics.evaluation_loss();
  line["layers"] = LayersOf(metrics);
  line["fused"] = FusedOf(metrics);
  return line.dump();
}

absl::StatusOr<LossCurves> CutMetrics(FileSystem& fs, const std::string& path, int64_t last_step) {
  LossCurves losses;
  if (!fs.Exists(path)) return losses;
  MNEMO_ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(path));
  size_t kept = 0;
  for (size_t end = 0; (end = text.find('\n', kept)) != std::string::npos; kept = end + 1) {
    const Json line = Json::parse(text.substr(kept, end - kept), nullptr, false);
    const auto step = line.is_object() ? line.find("step") : line.end();
    if (step == line.end() || !step->is_number_integer() || *step > last_step) break;
    const auto add = [&](const char* field, std::vector<LossPoint>& to) {
      const auto loss = line.find(field);
      if (loss != line.end() && loss->is_number()) to.push_back({*step, *loss});
    };
    if (line.value("skipped", Json()) != true) add("loss", losses.train);
    add("evaluation_loss", losses.held_out);
  }
  if (kept == text.size()) return losses;
  MNEMO_RETURN_IF_ERROR(WriteFileAtomically(fs, path, std::string_view(text).substr(0, kept)));
  return losses;
}

absl::StatusOr<MetricsWriter> MetricsWriter::Append(FileSystem& fs, const std::string& path) {
  MNEMO_ASSIGN_OR_RETURN(auto file, fs.OpenAppend(path));
  return MetricsWriter(fs, path, std::move(file));
}

absl::StatusOr<MetricsWriter> MetricsWriter::Create(FileSystem& fs, const std::string& path) {
  std::unique_ptr<WritableFile> file;
  MNEMO_ASSIGN_OR_RETURN(file, fs.Create(path));
  return MetricsWriter(fs, path, std::move(file));
}

absl::Status MetricsWriter::Write(const v1::StepMetrics& metrics) {
  if (broken_) MNEMO_RETURN_IF_ERROR(Repair());
  const absl::Status written = file_->Append(MetricsLine(metrics) + "\n");
  broken_ = !written.ok();
  return written;
}

absl::Status MetricsWriter::Repair() {
  MNEMO_ASSIGN_OR_RETURN(const std::string text, fs_->ReadFile(path_));
  const size_t whole = text.rfind('\n') + 1;  // 0 where there is none
  if (whole < text.size()) {
    MNEMO_RETURN_IF_ERROR(
        WriteFileAtomically(*fs_, path_, std::string_view(text).substr(0, whole)));
    MNEMO_ASSIGN_OR_RETURN(file_, fs_->OpenAppend(path_));
  }
  broken_ = false;
  return absl::OkStatus();
}

absl::Status MetricsWriter::Close() {
  MNEMO_RETURN_IF_ERROR(file_->Sync());
  return file_->Close();
}

}  // namespace mnemo
