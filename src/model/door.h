// The door between tensor code, which throws, and what returns a Status.
#pragma once

#include <new>

#include "absl/status/status.h"
#include "src/core/status.h"

namespace mnemo {

// ResourceExhausted, with the fields that make a run smaller.
absl::Status OutOfMemory();

// What `body`, which returns a Status or a StatusOr, returns, or its TensorError or lack of memory
// as a Status.
template <typename F>
auto AtTheDoor(F&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const TensorError& error) {
    return error.status();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
}

}  // namespace mnemo
