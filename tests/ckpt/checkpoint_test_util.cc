#include "tests/ckpt/checkpoint_test_util.h"

#include <cmath>
#include <filesystem>

#include "src/core/status.h"

namespace mnemo {
namespace {

Tensor Values(const Shape& shape, DType dtype, int seed) {
  std::vector<double> values;
  std::vector<int32_t> integers;
  for (int64_t i = 0; i < ElementCount(shape); ++i) {
    values.push_back(std::sin(static_cast<double>(i + 1) * 0.7 + seed));
    integers.push_back(static_cast<int32_t>(i * 1000003 + seed));
  }
  return dtype == DType::kI32 ? Tensor::FromHost(std::span<const int32_t>(integers), shape)
                              : Tensor::FromHost(std::span<const double>(values), shape, dtype);
}

// Bounds of `parts` uneven parts of [0, size): some may be empty.
int64_t Bound(int64_t size, int part, int parts) {
  return static_cast<int64_t>(
      std::floor(static_cast<double>(size) * std::pow(static_cast<double>(part) / parts, 1.5)));
}

}  // namespace

TestState MakeState(int seed) {
  return {{"parameter/embedding.weight", Values({13, 6}, DType::kF32, seed)},
          {"parameter/layers.0.memory.weight", Values({3, 5, 7}, DType::kBF16, seed + 1)},
          {"first_moment/embedding.weight", Values({13, 6}, DType::kF64, seed + 2)},
          {"parameter/scale", Values({}, DType::kF32, seed + 3)},
          {"carry/0/tokens", Values({11}, DType::kI32, seed + 4)},
          {"carry/0/window", Tensor::Empty({0, 4}, DType::kF32)}};
}

std::vector<StatePiece> PiecesOf(const TestState& state, int rank, int ranks) {
  std::vector<StatePiece> pieces;
  for (size_t i = 0; i < state.size(); ++i) {
    const auto& [name, value] = state[i];
    const int axis = static_cast<int>(i) % 3;  // 0: rows, 1: columns, 2: all on one rank
    if (axis >= value.rank() || axis == 2) {
      if (static_cast<int>(i) % ranks == rank) pieces.push_back(WholePiece(name, value));
      continue;
    }
    const int64_t begin = Bound(value.dim(axis), rank, ranks),
                  end = Bound(value.dim(axis), rank + 1, ranks);
    StatePiece piece{name, value.shape(), Shape(value.rank(), 0), value.Slice(axis, begin, end)};
    piece.begin[axis] = begin;
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

v1::CheckpointManifest About(int64_t step) {
  v1::CheckpointManifest about;
  about.set_writer("mnemo, the tests'");
  about.mutable_training()->set_step(step);
  about.mutable_training()->set_seed(uint64_t{1} << 63);
  about.mutable_config()->mutable_train()->set_steps(1000);
  about.mutable_plan()->mutable_mesh()->set_dp(2);
  about.mutable_tokenizer()->set_kind("bytes");
  return about;
}

absl::StatusOr<std::string> SaveState(FileSystem& fs, const std::string& checkpoints, int64_t step,
                                      const TestState& state, int ranks, int64_t piece_bytes) {
  std::string temporary;
  MNEMO_ASSIGN_OR_RETURN(temporary, BeginCheckpoint(fs, checkpoints, step));
  std::vector<v1::CheckpointFragment> fragments(ranks);
  absl::Status status;
  for (int rank = 0; rank < ranks && status.ok(); ++rank) {
    auto fragment =
        WriteCheckpointFile(fs, temporary, rank, PiecesOf(state, rank, ranks), piece_bytes);
    status = fragment.status();
    if (!status.ok()) break;
    // As it would travel to rank 0.
    EXPECT_TRUE(fragments[rank].ParseFromString(fragment->SerializeAsString()));
  }
  absl::StatusOr<std::string> directory = status.ok() ? "" : absl::StatusOr<std::string>(status);
  if (status.ok()) directory = CommitCheckpoint(fs, temporary, fragments, About(step));
  if (!directory.ok()) AbandonCheckpoint(fs, temporary);
  return directory;
}

std::string BytesOf(const Tensor& tensor) {
  const Tensor x = tensor.Contiguous();
  return std::string(static_cast<const char*>(x.raw()), static_cast<size_t>(x.bytes()));
}

void ExpectHolds(const std::string& directory, const TestState& state) {
  const auto reader = CheckpointReader::Open(FileSystem::Posix(), directory);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->manifest().tensors_size(), static_cast<int>(state.size()));
  for (const auto& [name, value] : state) {
    const auto read = reader->Read(name);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->shape(), value.shape()) << name;
    EXPECT_EQ(read->dtype(), value.dtype()) << name;
    EXPECT_EQ(BytesOf(*read), BytesOf(value)) << name;
  }
}

}  // namespace mnemo
