// Trains prepare's tokenizer on a sample of its input.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/data/prepare.h"

namespace mnemo {

// A SentencePiece model for `options`, trained on pieces picked evenly over the whole input, held-
// out documents aside. A pure function of input and options. `read` is told the bytes read so far.
// InvalidArgument for standard input, which cannot be read twice.
absl::StatusOr<std::string> TrainOnSample(const PrepareOptions& options,
                                          const std::vector<InputFile>& files,
                                          const std::function<void(int64_t)>& read);

}  // namespace mnemo
