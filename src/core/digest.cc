#include "src/core/digest.h"

#include <fmt/format.h>

// In here, with this file's options: the library's own functions are compiled for any x86-64, which
// takes twice as long. Wider vectors than AVX2's gain nothing, and lose for what no cache holds.
#define XXH_INLINE_ALL
#ifdef __AVX2__
#define XXH_VECTOR XXH_AVX2
#endif
#include <xxhash.h>

#include <cstring>

namespace mnemo {
namespace {

Digest Canonical(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  Digest digest;
  static_assert(sizeof(canonical.digest) == sizeof(digest.bytes));
  std::memcpy(digest.bytes.data(), canonical.digest, digest.bytes.size());
  return digest;
}

}  // namespace

std::string Digest::Hex() const {
  std::string hex;
  for (uint8_t byte : bytes) hex += fmt::format("{:02x}", byte);
  return hex;
}

Digest DigestOf(std::string_view bytes) {
  return Canonical(XXH3_128bits(bytes.data(), bytes.size()));
}

struct DigestStream::State {
  XXH3_state_t xxh3;
};

DigestStream::DigestStream() : state_(std::make_unique<State>()) { Reset(); }

DigestStream::~DigestStream() = default;

void DigestStream::Update(std::string_view bytes) {
  XXH3_128bits_update(&state_->xxh3, bytes.data(), bytes.size());
}

Digest DigestStream::Finish() const { return Canonical(XXH3_128bits_digest(&state_->xxh3)); }

void DigestStream::Reset() { XXH3_128bits_reset(&state_->xxh3); }

}  // namespace mnemo
