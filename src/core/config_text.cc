#include "src/core/config_text.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <regex>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "src/core/problem_list.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

// A file in which every line is wrong is no configuration: stop after so many.
constexpr int kMaxBadValues = 50;

// Positions count from zero.
struct Complaint {
  int line, column;
  std::string message;
};

// What one pass of the parser said.
struct Findings {
  std::vector<Complaint> errors, unknown;
};

class Collector : public google::protobuf::io::ErrorCollector {
 public:
  explicit Collector(Findings& findings) : findings_(findings) {}
  void AddError(int line, int column, const std::string& message) override {
    findings_.errors.push_back({line, column, message});
  }
  // The parser is told to pass over unknown fields and only warn, so that it goes on to the others.
  void AddWarning(int line, int column, const std::string& message) override {
    findings_.unknown.push_back({line, column, message});
  }

 private:
  Findings& findings_;
};

// The parser notices an unknown name one token late. Moves such a complaint back to the name.
void PointAtName(const std::vector<std::string>& lines, Complaint& complaint) {
  constexpr std::string_view kPhrases[] = {"Unknown enumeration value of \"",
                                           "has no field named \""};
  for (std::string_view phrase : kPhrases) {
    const size_t at = complaint.message.find(phrase);
    if (at == std::string::npos) continue;
    const size_t begin = at + phrase.size();
    const std::string name =
        complaint.message.substr(begin, complaint.message.find('"', begin) - begin);
    size_t from = complaint.column;
    for (int line = std::min<int>(complaint.line, lines.size() - 1); line >= 0; --line) {
      const size_t found = lines[line].rfind(name, from);
      if (found != std::string::npos) {
        complaint.line = line;
        complaint.column = static_cast<int>(found);
        return;
      }
      from = std::string::npos;
    }
  }
}

Findings Parse(const std::vector<std::string>& lines, google::protobuf::Message* message) {
  const std::string text = absl::StrJoin(lines, "\n");
  google::protobuf::io::ArrayInputStream input(text.data(), static_cast<int>(text.size()));
  Findings findings;
  Collector collector(findings);
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&collector);
  parser.AllowUnknownField(true);
  parser.Parse(&input, message);
  for (Complaint& complaint : findings.errors) PointAtName(lines, complaint);
  for (Complaint& complaint : findings.unknown) PointAtName(lines, complaint);
  return findings;
}

// The parser stops at the first bad value. If that value belongs to a field alone on its line,
// blanking the line leaves the rest of the text as it was, and the parser can go on behind it.
bool BlankBadField(const Complaint& error, std::vector<std::string>& lines) {
  static const auto* field = new std::regex(R"(\s*\w+\s*:[^{}\[\]<>]*)");
  if (error.line < 0 || error.line >= static_cast<int>(lines.size())) return false;
  std::string& line = lines[error.line];
  const size_t colon = line.find(':');
  if (!std::regex_match(line, *field) || error.column < static_cast<int>(colon)) return false;
  line.clear();
  return true;
}

}  // namespace

absl::Status ParseConfigText(std::string_view text, const std::string& name,
                             google::protobuf::Message* message) {
  std::vector<std::string> lines =
      absl::StrSplit(absl::string_view(text.data(), text.size()), '\n');
  std::vector<Complaint> found;
  Findings pass;
  do {
    message->Clear();
    pass = Parse(lines, message);
    found.insert(found.end(), pass.errors.begin(), pass.errors.end());
  } while (!pass.errors.empty() && static_cast<int>(found.size()) < kMaxBadValues &&
           BlankBadField(pass.errors.front(), lines));
  // The last pass has seen the most text, and so has warned of all that earlier ones had.
  found.insert(found.end(), pass.unknown.begin(), pass.unknown.end());
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::pair(a.line, a.column) < std::pair(b.line, b.column);
  });
  ProblemList problems;
  for (const auto& entry : found) {
    problems.Add("{}:{}:{}: {}", name, entry.line + 1, entry.column + 1, entry.message);
  }
  return problems.ToStatus(name);
}

absl::Status LoadConfigFile(FileSystem& fs, const std::string& path,
                            google::protobuf::Message* message) {
  MNEMO_ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(path));
  return ParseConfigText(text, path, message);
}

std::string PrintConfigText(const google::protobuf::Message& message) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  std::string text;
  printer.PrintToString(message, &text);
  return text;
}

}  // namespace mnemo
