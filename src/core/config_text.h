// Configurations as text: protobuf text format in files, `path=value` on the command line. Knows no
// schema: works on any protobuf message.
#pragma once

#include <google/protobuf/message.h>

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "src/core/file_system.h"

namespace mnemo {

// Parses text format into `message`, which is cleared first. `name` (a path) begins every problem:
// "run.textproto:3:5: ...". Unknown fields, unknown enum names and fields given twice are problems.
// Reports every problem that can be told apart: after a bad value on a line of its own parsing
// continues, after broken syntax it does not. On failure `message` holds nothing of use.
absl::Status ParseConfigText(std::string_view text, const std::string& name,
                             google::protobuf::Message* message);

absl::Status LoadConfigFile(FileSystem& fs, const std::string& path,
                            google::protobuf::Message* message);

// Applies `path.to.field=value`, in order, later ones winning; messages on the way are created.
//   train.steps=200            numbers, true or false
//   model.block=MAC            enum values by name
//   data.shards=a.h5,b.h5      a list: replaces it
//   data.shards+=c.h5          a list: appends
//   model.memory.gates=        nothing: clears the field, so that it takes its default
// Reports the problems of all of them; an unknown path names the nearest ones. On failure some may
// have been applied.
absl::Status ApplyOverrides(std::span<const std::string> overrides,
                            google::protobuf::Message* message);

// Text format, one field a line, indented; ParseConfigText reads it back to an equal message.
std::string PrintConfigText(const google::protobuf::Message& message);

}  // namespace mnemo
