// The door between tensor code, which throws, and what returns a Status.
#pragma once

#include <new>
#include <string_view>

#include "absl/status/status.h"
#include "src/core/status.h"

namespace mnemo {

// The fields that make a run smaller: "use a smaller train.slice, ...".
std::string_view SmallerRunAdvice();
// ResourceExhausted, with that advice.
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
