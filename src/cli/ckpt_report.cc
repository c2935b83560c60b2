#include "src/cli/ckpt_report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <map>
#include <vector>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/manifest.h"

namespace mnemo {
namespace {

using Json = nlohmann::ordered_json;

Json TrainingJson(const v1::TrainingState& training) {
  Json json = {{"step", training.step()},
               {"updates", training.updates()},
               {"skipped", training.skipped()},
               {"seed", training.seed()},
               {"tokens_seen", training.tokens_seen()},
               {"next_sample", training.next_sample()},
               {"finished", training.finished()}};
  if (!training.initial_weights().empty()) json["initial_weights"] = training.initial_weights();
  AddHeldOutLoss(training, json);
  return json;
}

Json ToJson(const std::vector<ConfigDifference>& list) {
  Json json = Json::array();
  for (const ConfigDifference& d : list) {
    json.push_back({{"path", d.path}, {"first", d.before}, {"second", d.after}});
  }
  return json;
}

}  // namespace

std::string Megabytes(int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

std::string TimeText(int64_t unix_seconds) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(unix_seconds)));
}

void AddHeldOutLoss(const v1::TrainingState& training, Json& json) {
  if (training.has_evaluation_loss()) json["evaluation_loss"] = training.evaluation_loss();
}
std::string HeldOutLossText(const v1::TrainingState& training) {
  if (!training.has_evaluation_loss()) return "";
  return fmt::format(", held-out loss {:.4f}", training.evaluation_loss());
}

Json CheckpointJson(const CheckpointReader& reader) {
  const v1::CheckpointManifest& manifest = reader.manifest();
  const v1::Mesh& mesh = manifest.plan().mesh();
  Json json = {{"path", reader.directory()},
               {"format_version", manifest.format_version()},
               {"writer", manifest.writer()},
               {"created", TimeText(manifest.created_unix_seconds())},
               {"training", TrainingJson(manifest.training())},
               {"mesh", {{"dp", mesh.dp()}, {"sp", mesh.sp()}, {"tp", mesh.tp()}}},
               {"files", Json::array()},
               {"tensors", Json::array()}};
  for (const v1::CheckpointFile& file : manifest.files()) {
    json["files"].push_back(
        {{"path", file.path()}, {"rank", file.rank()}, {"bytes", file.bytes()}});
  }
  for (const v1::CheckpointTensor& tensor : manifest.tensors()) {
    json["tensors"].push_back(
        {{"name", tensor.name()},
         {"dtype", Name(DTypeOf(tensor))},
         {"shape", std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())},
         {"pieces", tensor.pieces_size()}});
  }
  return json;
}

void PrintCheckpoint(const CheckpointReader& reader, bool tensors) {
  const v1::CheckpointManifest& manifest = reader.manifest();
  const v1::TrainingState& training = manifest.training();
  const v1::Mesh& mesh = manifest.plan().mesh();
  fmt::print("{}\n", reader.directory());
  fmt::print("  format version {}, written {} by {}\n", manifest.format_version(),
             TimeText(manifest.created_unix_seconds()), manifest.writer());
  fmt::print("  step {}: {} updates, {} skipped, {} tokens seen, seed {}{}{}\n", training.step(),
             training.updates(), training.skipped(), training.tokens_seen(), training.seed(),
             HeldOutLossText(training), training.finished() ? ", finished" : "");
  if (!training.initial_weights().empty()) {
    fmt::print("  began with the weights of {}\n", training.initial_weights());
  }
  fmt::print("  mesh dp {}, sp {}, tp {}; {} in {} files\n", mesh.dp(), mesh.sp(), mesh.tp(),
             Megabytes(CheckpointBytes(manifest)), manifest.files_size());
  struct Group {
    int64_t tensors = 0, elements = 0, bytes = 0;
  };
  std::map<std::string, Group> groups;
  for (const v1::CheckpointTensor& tensor : manifest.tensors()) {
    Group& group = groups[tensor.name().substr(0, tensor.name().find('/'))];
    ++group.tensors;
    group.elements += ElementCount(ShapeOf(tensor));
    group.bytes += BytesOf(tensor);
    if (tensors) {
      fmt::print("  {:<48} {:<5} {}, {} pieces\n", tensor.name(), Name(DTypeOf(tensor)),
                 ShapeOf(tensor), tensor.pieces_size());
    }
  }
  for (const auto& [name, group] : groups) {
    fmt::print("  {}: {} elements in {} tensors, {}\n", name, group.elements, group.tensors,
               Megabytes(group.bytes));
  }
}

Json DifferenceJson(const CheckpointReader& a, const CheckpointReader& b,
                    const CheckpointDifference& found) {
  Json json = {{"first", a.directory()},
               {"second", b.directory()},
               {"equal", found.none()},
               {"compared", found.compared},
               {"config", ToJson(found.config)},
               {"training", ToJson(found.training)},
               {"tokenizer", ToJson(found.tokenizer)},
               {"tensors", Json::array()}};
  for (const TensorDifference& d : found.tensors) {
    Json& tensor = json["tensors"].emplace_back(Json{{"name", d.name}});
    if (d.kind.empty()) {
      tensor["elements"] = d.elements;
      tensor["largest"] = d.largest;
      tensor["relative"] = d.relative;
    } else {
      tensor["kind"] = d.kind;
    }
  }
  return json;
}

void PrintDifference(const CheckpointDifference& found) {
  const auto settings = [](const char* group, const std::vector<ConfigDifference>& list) {
    for (const ConfigDifference& d : list) {
      fmt::print("{}{}: {} and {}\n", group, d.path, d.before, d.after);
    }
  };
  settings("", found.config);
  settings("training.", found.training);
  settings("tokenizer.", found.tokenizer);
  for (const TensorDifference& d : found.tensors) {
    fmt::print("{:<48} {}\n", d.name,
               d.kind.empty() ? fmt::format("{} elements, max |a-b| {:.3g}, relative {:.3g}",
                                            d.elements, d.largest, d.relative)
                              : d.kind);
  }
  if (found.none()) fmt::print("equal: {} tensors, bit by bit\n", found.compared);
}

}  // namespace mnemo
