#include "src/core/digest.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <cstring>

#include "src/core/status.h"

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

DigestStream::DigestStream() : state_(XXH3_createState()) {
  MNEMO_CHECK(state_ != nullptr, "out of memory");
  Reset();
}

DigestStream::~DigestStream() = default;

void DigestStream::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

void DigestStream::Update(std::string_view bytes) {
  XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
}

Digest DigestStream::Finish() const { return Canonical(XXH3_128bits_digest(state_.get())); }

void DigestStream::Reset() { XXH3_128bits_reset(state_.get()); }

}  // namespace mnemo
