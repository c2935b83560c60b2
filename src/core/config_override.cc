// ApplyOverrides of config_text.h.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/reflection.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "src/core/config_text.h"
#include "src/core/problem_list.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int kCandidates = 3;

int EditDistance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

void CollectPaths(const Descriptor* type, const std::string& prefix,
                  std::vector<std::string>& paths) {
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    const std::string path = prefix + field->name();
    if (field->message_type() != nullptr && !field->is_repeated()) {
      CollectPaths(field->message_type(), path + ".", paths);
    } else {
      paths.push_back(path);
    }
  }
}

// The paths whose last word is nearest, then those nearest as a whole.
std::string NearPaths(const Descriptor* root, const std::string& path) {
  std::vector<std::string> paths;
  CollectPaths(root, "", paths);
  auto last = [](const std::string& p) { return p.substr(p.rfind('.') + 1); };
  std::vector<std::pair<std::pair<int, int>, std::string>> ranked;
  for (const std::string& p : paths) {
    ranked.push_back({{EditDistance(last(p), last(path)), EditDistance(p, path)}, p});
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<std::string> nearest;
  for (const auto& [distance, p] : ranked) {  // no field is far from a slip of the fingers
    const bool near = distance.first <= ranked[0].first.first + 1;
    if (near && nearest.size() < kCandidates) nearest.push_back(p);
  }
  return absl::StrJoin(nearest, ", ");
}

std::string EnumNames(const EnumDescriptor* type) {
  std::vector<std::string> names;
  for (int i = 0; i < type->value_count(); ++i) {
    if (type->value(i)->number() != 0) names.push_back(type->value(i)->name());
  }
  return absl::StrJoin(names, ", ");
}

template <typename T>
absl::Status ParseInteger(const std::string& text, T* value) {
  if (absl::SimpleAtoi(text, value)) return absl::OkStatus();
  return InvalidArgument("expected an integer from {} to {}", std::numeric_limits<T>::min(),
                         std::numeric_limits<T>::max());
}

absl::Status ParseBool(const std::string& text, bool* value) {
  *value = text == "true";
  if (text == "true" || text == "false") return absl::OkStatus();
  return InvalidArgument("expected true or false");
}

absl::Status ParseDouble(const std::string& text, double* value) {
  if (absl::SimpleAtod(text, value)) return absl::OkStatus();
  return InvalidArgument("expected a number");
}

absl::Status ParseEnum(const std::string& text, const EnumDescriptor* type, int* value) {
  const auto* found = type->FindValueByName(text);
  if (found == nullptr) return InvalidArgument("expected one of {}", EnumNames(type));
  *value = found->number();
  return absl::OkStatus();
}

// Sets a singular field or appends to a repeated one.
absl::Status Store(const std::string& text, const FieldDescriptor* field, Message* message) {
  const auto* reflection = message->GetReflection();
  auto put = [&](auto set, auto add, auto parse, auto value) -> absl::Status {
    MNEMO_RETURN_IF_ERROR(parse(text, &value));
    (reflection->*(field->is_repeated() ? add : set))(message, field, value);
    return absl::OkStatus();
  };
  using R = google::protobuf::Reflection;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return put(&R::SetInt32, &R::AddInt32, ParseInteger<int32_t>, int32_t{});
    case FieldDescriptor::CPPTYPE_INT64:
      return put(&R::SetInt64, &R::AddInt64, ParseInteger<int64_t>, int64_t{});
    case FieldDescriptor::CPPTYPE_UINT32:
      return put(&R::SetUInt32, &R::AddUInt32, ParseInteger<uint32_t>, uint32_t{});
    case FieldDescriptor::CPPTYPE_UINT64:
      return put(&R::SetUInt64, &R::AddUInt64, ParseInteger<uint64_t>, uint64_t{});
    case FieldDescriptor::CPPTYPE_BOOL:
      return put(&R::SetBool, &R::AddBool, ParseBool, false);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return put(&R::SetDouble, &R::AddDouble, ParseDouble, 0.0);
    case FieldDescriptor::CPPTYPE_ENUM: {
      auto parse = [&](const std::string& t, int* v) {
        return ParseEnum(t, field->enum_type(), v);
      };
      return put(&R::SetEnumValue, &R::AddEnumValue, parse, 0);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      if (field->is_repeated()) {
        reflection->AddString(message, field, text);
      } else {
        reflection->SetString(message, field, text);
      }
      return absl::OkStatus();
    default:
      return InvalidArgument("fields of type {} cannot be set here", field->type_name());
  }
}

absl::Status StoreValue(const std::string& path, const std::string& value, bool append,
                        const FieldDescriptor* field, Message* message) {
  if (!append) message->GetReflection()->ClearField(message, field);
  if (value.empty()) return absl::OkStatus();
  if (field->message_type() != nullptr) {
    std::vector<std::string> paths;
    CollectPaths(field->message_type(), path + ".", paths);
    return InvalidArgument("a group of fields has no value; set one of {}",
                           absl::StrJoin(paths, ", "));
  }
  if (!field->is_repeated()) {
    if (append) return InvalidArgument("not a list: use = instead of +=");
    return Store(value, field, message);
  }
  const std::vector<std::string> items = absl::StrSplit(value, ',');
  for (const std::string& item : items) MNEMO_RETURN_IF_ERROR(Store(item, field, message));
  return absl::OkStatus();
}

absl::Status ApplyOverride(const std::string& override, Message* root) {
  const size_t equals = override.find('=');
  if (equals == std::string::npos || equals == 0) {
    return InvalidArgument("--set {}: expected path.to.field=value", override);
  }
  const bool append = override[equals - 1] == '+';
  const std::string path = override.substr(0, equals - append);
  const std::string value = override.substr(equals + 1);
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  Message* message = root;
  for (size_t i = 0; i < names.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(names[i]);
    const bool last = i + 1 == names.size();
    const bool nested =
        field != nullptr && field->message_type() != nullptr && !field->is_repeated();
    if (field == nullptr || (!last && !nested)) {
      return InvalidArgument("--set {}: there is no field {}; near it: {}", override, path,
                             NearPaths(root->GetDescriptor(), path));
    }
    if (!last) {
      message = message->GetReflection()->MutableMessage(message, field);
      continue;
    }
    const absl::Status status = StoreValue(path, value, append, field, message);
    if (!status.ok()) {
      return InvalidArgument("--set {}: {}", override, std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ApplyOverrides(std::span<const std::string> overrides, Message* message) {
  ProblemList problems;
  for (const std::string& override : overrides) problems.AddAll(ApplyOverride(override, message));
  return problems.ToStatus("--set");
}

}  // namespace mnemo
