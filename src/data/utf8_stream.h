// Text that arrives in pieces of any bytes, given out in whole characters.
#pragma once

#include <string>
#include <string_view>

namespace mnemo {

class Utf8Stream {
 public:
  // The text that is complete now. An unfinished character is held back; each byte that belongs to
  // none becomes U+FFFD.
  std::string Add(std::string_view bytes);
  // What is left at the end: U+FFFD for an unfinished character, or nothing.
  std::string Finish();

 private:
  std::string held_;
};

}  // namespace mnemo
