// A strict check that text is well-formed XML of the simple kind that we write: elements,
// attributes in double quotes, the five named entities, no declarations or comments.
#pragma once

#include <algorithm>
#include <regex>
#include <string>
#include <vector>

namespace mnemo {

// Empty if well-formed with one root element, else what is wrong.
inline std::string XmlProblem(const std::string& text) {
  static const std::regex tag(
      R"(^<(/?)([A-Za-z][\w-]*)((?:\s+[\w:-]+="(?:[^<&"]|&(?:amp|lt|gt|quot|apos);)*")*)\s*(/?)>)");
  static const std::regex content(R"(^(?:[^<&>]|&(?:amp|lt|gt|quot|apos);)+)");
  std::vector<std::string> open;
  bool rooted = false;
  auto at = text.cbegin();
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 && c != '\n') return "control character";
  }
  for (std::smatch match; at != text.cend(); at = match.suffix().first) {
    if (*at != '<') {
      const auto end = std::find(at, text.cend(), '<');
      if (!std::regex_match(std::string(at, end), content))
        return "bad text near " + std::string(at, end);
      if (open.empty() && std::string(at, end).find_first_not_of(" \n") != std::string::npos) {
        return "text outside the root";
      }
      if (end == text.cend()) break;
      at = end;
    }
    if (!std::regex_search(at, text.cend(), match, tag)) return "bad tag";
    const bool closes = match[1].length() > 0, empty = match[4].length() > 0;
    if (closes) {
      if (open.empty() || open.back() != match[2]) {
        return "</" + match[2].str() + "> closes <" + (open.empty() ? "" : open.back()) + ">";
      }
      open.pop_back();
    } else {
      if (open.empty() && rooted) return "two roots";
      rooted = true;
      if (!empty) open.push_back(match[2]);
    }
  }
  if (!open.empty()) return "<" + open.back() + "> is not closed";
  return rooted ? "" : "no root";
}

}  // namespace mnemo
