#include "src/core/config_difference.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include "src/core/digest.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

std::string ValueText(const Message& message, const FieldDescriptor* field) {
  std::string text;
  if (field->type() == FieldDescriptor::TYPE_BYTES && !field->is_repeated()) {
    const std::string bytes = message.GetReflection()->GetString(message, field);
    return fmt::format("{} bytes, XXH3 {}", bytes.size(), DigestOf(bytes).Hex());
  }
  if (!field->is_repeated()) {
    TextFormat::PrintFieldValueToString(message, field, -1, &text);
    return text;
  }
  for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
    std::string item;
    TextFormat::PrintFieldValueToString(message, field, i, &item);
    text += (i == 0 ? "" : ", ") + item;
  }
  return text;
}

void Compare(const Message& a, const Message& b, const std::string& prefix,
             std::vector<ConfigDifference>& differences) {
  for (int i = 0; i < a.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = a.GetDescriptor()->field(i);
    const std::string path = prefix + field->name();
    if (field->message_type() != nullptr && !field->is_repeated()) {
      // An absent message is an empty one.
      Compare(a.GetReflection()->GetMessage(a, field), b.GetReflection()->GetMessage(b, field),
              path + ".", differences);
      continue;
    }
    const std::string before = ValueText(a, field), after = ValueText(b, field);
    if (before != after) differences.push_back({path, before, after});
  }
}

}  // namespace

std::vector<ConfigDifference> ConfigDifferences(const Message& a, const Message& b) {
  MNEMO_CHECK(a.GetDescriptor() == b.GetDescriptor());
  std::vector<ConfigDifference> differences;
  Compare(a, b, "", differences);
  return differences;
}

}  // namespace mnemo
