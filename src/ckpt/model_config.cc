#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "src/ckpt/model_directory.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr const char* kFormat = "mnemosyne-model";
constexpr int kVersion = 1;

bool IsNumber(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return std::isdigit(c) != 0; });
}

// Protobuf writes 64-bit integers as strings. As members of objects they become numbers (lists are
// left alone: those hold paths).
void UnquoteIntegers(OrderedJson& json) {
  for (auto& [key, value] : json.items()) {
    if (value.is_object()) UnquoteIntegers(value);
    if (value.is_string() && IsNumber(value.get_ref<const std::string&>())) {
      value = std::stoull(value.get<std::string>());
    }
  }
}

OrderedJson ConfigToJson(const v1::RunConfig& config) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(config, &text, options);
  MNEMO_CHECK(status.ok(), "{}", status.ToString());
  OrderedJson json = OrderedJson::parse(text);
  UnquoteIntegers(json);
  return json;
}

absl::StatusOr<ModelTokenizer> ParseTokenizer(const OrderedJson& json) {
  const auto found = json.find("tokenizer");
  if (found == json.end() || !found->is_object()) return DataLoss("there is no tokenizer");
  const auto field = [&](const char* key) {
    return found->contains(key) ? (*found)[key] : OrderedJson();
  };
  const OrderedJson kind = field("kind"), hash = field("hash"), vocabulary = field("vocabulary"),
                    separator = field("separator");
  if (!kind.is_string() || !hash.is_string() || !vocabulary.is_number_unsigned() ||
      !separator.is_number_unsigned()) {
    return DataLoss("tokenizer needs kind, hash, vocabulary and separator");
  }
  return ModelTokenizer{kind.get<std::string>(),
                        hash.get<std::string>(),
                        vocabulary.get<int64_t>(),
                        separator.get<int32_t>(),
                        {}};
}

}  // namespace

std::string PrintModelConfig(const ModelDescription& description) {
  const ModelTokenizer& tokenizer = description.tokenizer;
  OrderedJson json = {{"format", kFormat},
                      {"version", kVersion},
                      {"tokenizer",
                       {{"kind", tokenizer.kind},
                        {"hash", tokenizer.hash},
                        {"vocabulary", tokenizer.vocabulary},
                        {"separator", tokenizer.separator}}}};
  const OrderedJson config = ConfigToJson(description.config);
  for (const auto& [key, value] : config.items()) json[key] = value;
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

absl::StatusOr<ModelDescription> ParseModelConfig(const std::string& text,
                                                  const std::string& name) {
  OrderedJson json = OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return DataLoss("{}: not a JSON object", name);
  if (json.value("format", OrderedJson()) != kFormat) {
    return DataLoss("{}: format is not \"{}\": not a model of this program", name, kFormat);
  }
  if (json.value("version", OrderedJson()) != kVersion) {
    return FailedPrecondition("{}: version {}; this program reads version {}", name,
                              json.value("version", OrderedJson()).dump(), kVersion);
  }
  ModelDescription description;
  auto tokenizer = ParseTokenizer(json);
  if (!tokenizer.ok()) return DataLoss("{}: {}", name, std::string(tokenizer.status().message()));
  description.tokenizer = *std::move(tokenizer);
  for (const char* key : {"format", "version", "tokenizer"}) json.erase(key);
  const auto status = google::protobuf::util::JsonStringToMessage(json.dump(), &description.config);
  if (!status.ok()) return DataLoss("{}: {}", name, std::string(status.message()));
  return description;
}

}  // namespace mnemo
