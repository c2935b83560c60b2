// Where two configurations differ. Knows no schema: works on any protobuf message.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <vector>

namespace mnemo {

struct ConfigDifference {
  std::string path;           // "train.optimizer.beta1"
  std::string before, after;  // as text; of a list all of it, of an absent message or list ""
};

// In the order of the schema. `a` and `b` are of one type.
std::vector<ConfigDifference> ConfigDifferences(const google::protobuf::Message& a,
                                                const google::protobuf::Message& b);

}  // namespace mnemo
