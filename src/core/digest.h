// XXH3-128 digests, as used by every file format of the project. They find damage, not forgery.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace mnemo {

// The canonical (big-endian) form of a 128-bit hash.
struct Digest {
  std::array<uint8_t, 16> bytes{};
  std::string Hex() const;  // 32 lower-case digits
  bool operator==(const Digest&) const = default;
};

Digest DigestOf(std::string_view bytes);

// The digest of a stream of bytes: any cutting into Update() calls gives the same result. Not
// thread-safe.
class DigestStream {
 public:
  DigestStream();
  ~DigestStream();
  void Update(std::string_view bytes);
  Digest Finish() const;  // of all bytes so far
  void Reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mnemo
