#include "src/job/checkpoint_bench.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <utility>

#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/state_snapshot.h"
#include "src/core/backend.h"
#include "src/core/digest.h"
#include "src/core/status.h"
#include "src/core/thread_pool.h"
#include "src/job/disk_bench.h"
#include "src/job/timing.h"
#include "src/model/door.h"

namespace mnemo {
namespace {

using BenchClock = std::chrono::steady_clock;

constexpr double kOfPlainFiles = 0.8, kOfBareCopy = 1 / 1.2, kOfMemory = 0.8;

double BenchSeconds(BenchClock::time_point begin) {
  return std::chrono::duration<double>(BenchClock::now() - begin).count();
}

// Bits that no disk makes smaller.
void FillWithNoise(void* memory, int64_t bytes, uint64_t seed) {
  auto* words = static_cast<uint64_t*>(memory);
  ParallelFor(bytes / 8, 1 << 17, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      uint64_t x = (static_cast<uint64_t>(i) + (seed << 40)) * 0x9e3779b97f4a7c15;
      x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
      words[i] = x ^ (x >> 27);
    }
  });
}

std::string_view BytesIn(const Tensor& tensor) {
  return {static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.bytes())};
}

// Rows of the tensors, in order, so that every rank has about as many bytes.
std::vector<std::vector<StatePiece>> CutOverRanks(const std::vector<NamedShape>& shapes,
                                                  const std::vector<Tensor>& state, int ranks) {
  int64_t all = 0, before = 0;
  for (const Tensor& tensor : state) all += tensor.bytes();
  const int64_t share = (all + ranks - 1) / ranks;
  std::vector<std::vector<StatePiece>> cut(ranks);
  for (size_t i = 0; i < state.size(); ++i) {
    const int64_t rows = state[i].dim(0), row_bytes = state[i].bytes() / rows;
    for (int64_t row = 0; row < rows;) {
      const int64_t rank = before / share;
      const int64_t left = std::max<int64_t>(1, (share * (rank + 1) - before) / row_bytes);
      const int64_t end = std::min(rows, row + left);
      Shape begin(shapes[i].shape.size(), 0);
      begin[0] = row;
      cut[rank].push_back({shapes[i].name, shapes[i].shape, begin, state[i].Slice(0, row, end)});
      before += (end - row) * row_bytes;
      row = end;
    }
  }
  return cut;
}

// The state's bytes in one piece, or on the CPU as they lie, into memory of the same kind and from
// the system as a snapshot's.
class BareCopy {
 public:
  BareCopy(const std::vector<Tensor>& state, int64_t bytes) : state_(state) {
    const Device device = state[0].device();
    if (device != Device()) {
      from_ = Tensor::Empty({bytes / 4}, DType::kF32, device);
      to_ = Tensor::EmptyOnHost(from_.shape(), DType::kF32, device);
      return;
    }
    constexpr size_t kHugePages = size_t{2} << 20;
    const size_t room = (static_cast<size_t>(bytes) / kHugePages + 1) * kHugePages;
    fresh_.reset(static_cast<char*>(std::aligned_alloc(kHugePages, room)));
    if (fresh_ == nullptr) throw std::bad_alloc();
    ::madvise(fresh_.get(), room, MADV_HUGEPAGE);
  }

  // With as many threads as a snapshot has.
  double Run() const {
    const BenchClock::time_point begin = BenchClock::now();
    if (from_.defined()) {
      Backend::For(from_.device()).CopyToHost(from_, to_.raw());
      return BenchSeconds(begin);
    }
    constexpr int64_t kGrain = int64_t{4} << 20;
    char* to = fresh_.get();
    for (const Tensor& tensor : state_) {
      ParallelFor(tensor.bytes(), kGrain, [&](int64_t first, int64_t end) {
        std::memcpy(to + first, static_cast<const char*>(tensor.raw()) + first, end - first);
      });
      to += tensor.bytes();
    }
    return BenchSeconds(begin);
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  const std::vector<Tensor>& state_;
  std::unique_ptr<char, Free> fresh_;
  Tensor from_, to_;
};

class CheckpointBench {
 public:
  CheckpointBench(const CheckpointBenchOptions& options,
                  const std::function<void(const BenchComparison&)>& report)
      : options_(options), report_(report) {}
  ~CheckpointBench() {
    std::error_code ignored;
    std::filesystem::remove_all(root(), ignored);
  }

  absl::Status Run() {
    MNEMO_RETURN_IF_ERROR(CheckRoom());
    MakeState();
    MNEMO_RETURN_IF_ERROR(TimeSnapshots());
    if (options_.device != Device()) return absl::OkStatus();
    TimeDigests();
    return TimeFiles();
  }

 private:
  std::string root() const { return options_.directory + "/mnemo-bench-ckpt"; }
  std::string checkpoints() const { return root() + "/checkpoints"; }

  absl::Status CheckRoom() const {
    MNEMO_RETURN_IF_ERROR(FileSystem::Posix().MakeDirectories(root()));
    std::error_code error;
    const auto room = std::filesystem::space(root(), error);
    const int64_t copies = options_.ranks > 1 ? 3 : 2;  // plain files and the checkpoint
    const int64_t needed = copies * (options_.bytes + options_.bytes / 16);
    if (error || static_cast<int64_t>(room.available) >= needed) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        fmt::format("{} has {} bytes free, and {} are needed; use fewer --bytes, or another --dir",
                    options_.directory, room.available, needed));
  }

  void MakeState() {
    shapes_ = StateOfBytes(options_.bytes);
    for (const NamedShape& named : shapes_) {
      Tensor host = Tensor::Empty(named.shape, DType::kF32);
      FillWithNoise(host.raw(), host.bytes(), state_.size());
      bytes_ += host.bytes();
      state_.push_back(host.To(options_.device));
    }
    pieces_ = CutOverRanks(shapes_, state_, options_.ranks);
  }

  BenchTimes Times(std::string name) const { return {std::move(name), bytes_, {}}; }

  // On one thread, over memory that no cache holds.
  void TimeDigests() const {
    const auto bytes = static_cast<size_t>(std::min<int64_t>(bytes_, int64_t{1} << 30)) / 8 * 8;
    const Tensor held = Tensor::Empty({static_cast<int64_t>(bytes / 4)}, DType::kF32);
    const Tensor other = Tensor::Empty(held.shape(), DType::kF32);
    FillWithNoise(held.raw(), held.bytes(), 1);
    FillWithNoise(other.raw(), other.bytes(), 2);
    const std::string_view view = BytesIn(held);
    BenchTimes digest{"digest", held.bytes(), {}}, read{"read", held.bytes(), {}},
        copy{"memcpy", held.bytes(), {}};
    for (int round = 0; round < std::max(5, options_.rounds); ++round) {
      BenchClock::time_point begin = BenchClock::now();
      (void)DigestOf(view);
      digest.seconds.push_back(BenchSeconds(begin));
      read.seconds.push_back(TimeMemoryRead(view));
      begin = BenchClock::now();
      std::memcpy(other.raw(), view.data(), view.size());
      copy.seconds.push_back(BenchSeconds(begin));
    }
    report_({digest, {read, copy}, kOfMemory});
  }

  // The first into memory that is new to the process, the later ones into the same again; on a GPU
  // into page-locked memory each time.
  absl::Status TimeSnapshots() const {
    std::vector<StatePiece> all;
    for (const auto& part : pieces_) all.insert(all.end(), part.begin(), part.end());
    const bool on_gpu = options_.device != Device();
    const std::string how = on_gpu ? "bare copy from the GPU" : "bare copy";
    BenchComparison first{Times("first snapshot"), {Times(how + " into new memory")}, 0};
    BenchComparison later{Times("snapshot"), {Times(how)}, kOfBareCopy};
    BenchTimes begun = Times("snapshot, until the next step may begin");
    if (!on_gpu) first.required = kOfBareCopy;
    BareCopy bare(state_, bytes_);
    StateSnapshot snapshot;
    for (int round = 0; round <= std::max(5, options_.rounds); ++round) {
      BenchComparison& into = round == 0 ? first : later;
      into.plain[0].seconds.push_back(bare.Run());
      const BenchClock::time_point begin = BenchClock::now();
      MNEMO_RETURN_IF_ERROR(snapshot.Take(all).status());
      if (round > 0) begun.seconds.push_back(BenchSeconds(begin));
      MNEMO_RETURN_IF_ERROR(snapshot.Wait());
      into.ours.seconds.push_back(BenchSeconds(begin));
    }
    report_(first);
    report_(later);
    if (on_gpu) report_({begun, later.plain, kOfBareCopy});
    return absl::OkStatus();
  }

  // All is written, then all is read, what is first being another each time. A virtual disk may be
  // faster with what it has seen before: the first round is not counted, and before a round's reads
  // every file is read once.
  absl::Status TimeFiles() {
    BenchComparison save{Times("save"), {}, kOfPlainFiles};
    BenchComparison load{Times("load, digests checked"), {}, kOfPlainFiles};
    BenchComparison verify{Times("verify, all digests"), {}, 0};
    for (const int files : PlainFileCounts()) {
      const std::string how = files == 1 ? "one plain file" : fmt::format("{} plain files", files);
      save.plain.push_back(Times("write and sync " + how));
      load.plain.push_back(Times("read " + how));
    }
    for (int round = 0; round <= options_.rounds; ++round) {
      std::vector<Timed> writes = {{&save.ours, [this] { return Save(); }}};
      std::vector<Timed> reads = {{&load.ours, [this] { return LoadAll(); }},
                                  {&verify.ours, [this] { return Verify(); }}};
      for (size_t i = 0; i < save.plain.size(); ++i) {
        const int files = PlainFileCounts()[i];
        writes.push_back({&save.plain[i], [this, files] { return WritePlain(files); }});
        reads.push_back({&load.plain[i], [this, files] { return ReadPlain(files); }});
      }
      std::rotate(writes.begin(), writes.begin() + round % writes.size(), writes.end());
      std::rotate(reads.begin(), reads.begin() + round % reads.size(), reads.end());
      MNEMO_RETURN_IF_ERROR(RunCold(writes, round > 0));
      MNEMO_RETURN_IF_ERROR(DropCaches(root(), options_.drop_caches));
      MNEMO_RETURN_IF_ERROR(ReadPlainFiles(FilesUnder(root())));
      MNEMO_RETURN_IF_ERROR(RunCold(reads, round > 0));
      std::filesystem::remove_all(root());
      MNEMO_RETURN_IF_ERROR(FileSystem::Posix().MakeDirectories(root()));
    }
    verify.plain = load.plain;
    for (const BenchComparison* one : {&save, &load, &verify}) report_(*one);
    return absl::OkStatus();
  }

  // Each in turn, with caches cold.
  struct Timed {
    BenchTimes* times;
    std::function<absl::Status()> run;
  };
  absl::Status RunCold(const std::vector<Timed>& lot, bool counted) const {
    for (const Timed& one : lot) {
      MNEMO_RETURN_IF_ERROR(DropCaches(root(), options_.drop_caches));
      const BenchClock::time_point begin = BenchClock::now();
      MNEMO_RETURN_IF_ERROR(one.run());
      if (counted) one.times->seconds.push_back(BenchSeconds(begin));
    }
    return absl::OkStatus();
  }

  std::vector<int> PlainFileCounts() const {
    return options_.ranks > 1 ? std::vector<int>{1, options_.ranks} : std::vector<int>{1};
  }
  std::string PlainPath(int files, int index) const {
    return fmt::format("{}/plain-{}-{}", root(), files, index);
  }

  absl::Status WritePlain(int files) const {
    std::vector<std::string> paths;
    std::vector<std::vector<std::string_view>> contents(files);
    for (int i = 0; i < files; ++i) paths.push_back(PlainPath(files, i));
    for (size_t rank = 0; rank < pieces_.size(); ++rank) {
      for (const StatePiece& piece : pieces_[rank]) {
        contents[files == 1 ? 0 : rank].push_back(BytesIn(piece.value));
      }
    }
    MNEMO_RETURN_IF_ERROR(WritePlainFiles(paths, contents));
    return FileSystem::Posix().SyncDirectory(root());
  }

  absl::Status ReadPlain(int files) const {
    std::vector<std::string> paths;
    for (int i = 0; i < files; ++i) paths.push_back(PlainPath(files, i));
    return ReadPlainFiles(paths);
  }

  absl::Status LoadAll() const {
    return RunAtOnce(options_.ranks, [&](int rank) {
      return AtTheDoor([&] { return Load(FileSystem::Posix(), directory_, rank); });
    });
  }

  absl::Status Verify() const {
    MNEMO_ASSIGN_OR_RETURN(const CheckpointVerification seen,
                           VerifyCheckpoint(FileSystem::Posix(), directory_));
    return seen.problems.empty() ? absl::OkStatus() : DataLoss("{}", seen.problems[0]);
  }

  absl::Status Save() {
    FileSystem& fs = FileSystem::Posix();
    v1::CheckpointManifest about;
    about.mutable_training()->set_step(1);
    MNEMO_ASSIGN_OR_RETURN(const std::string temporary, BeginCheckpoint(fs, checkpoints(), 1));
    std::vector<v1::CheckpointFragment> fragments(options_.ranks);
    MNEMO_RETURN_IF_ERROR(RunAtOnce(options_.ranks, [&](int rank) -> absl::Status {
      MNEMO_ASSIGN_OR_RETURN(fragments[rank],
                             WriteCheckpointFile(fs, temporary, rank, pieces_[rank]));
      return absl::OkStatus();
    }));
    MNEMO_ASSIGN_OR_RETURN(directory_,
                           CommitCheckpoint(fs, temporary, fragments, std::move(about)));
    return absl::OkStatus();
  }

  // As a run that goes on does it.
  absl::Status Load(FileSystem& fs, const std::string& directory, int rank) const {
    MNEMO_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(fs, directory));
    for (const StatePiece& piece : pieces_[rank]) {
      MNEMO_RETURN_IF_ERROR(
          reader.ReadBoxInto(piece.name, {piece.begin, piece.value.shape()}, piece.value));
    }
    return absl::OkStatus();
  }

  const CheckpointBenchOptions& options_;
  const std::function<void(const BenchComparison&)>& report_;
  std::vector<NamedShape> shapes_;
  std::vector<Tensor> state_;
  std::vector<std::vector<StatePiece>> pieces_;  // by rank
  int64_t bytes_ = 0;
  std::string directory_;  // of the checkpoint
};

}  // namespace

double BenchTimes::median() const { return Median(seconds); }

double BenchTimes::spread() const {
  const auto [shortest, longest] = std::minmax_element(seconds.begin(), seconds.end());
  return (*longest - *shortest) / median();
}

const BenchTimes& BenchComparison::fastest() const {
  return *std::min_element(
      plain.begin(), plain.end(),
      [](const BenchTimes& a, const BenchTimes& b) { return a.median() < b.median(); });
}

std::vector<NamedShape> StateOfBytes(int64_t bytes) {
  // Parameters and two moments; narrower where a layer would be most of it.
  int64_t width = 2048;
  while (width > 64 && 12 * width * width * 12 * 8 > bytes) width /= 2;
  const std::vector<NamedShape> layer = {{"norm/gain", {width}},
                                         {"attention/query", {width, width}},
                                         {"attention/key", {width, width}},
                                         {"attention/value", {width, width}},
                                         {"attention/out", {width, width}},
                                         {"attention/conv", {width, 4}},
                                         {"mlp/up", {4 * width, width}},
                                         {"mlp/down", {width, 4 * width}}};
  std::vector<NamedShape> shapes;
  for (int64_t at = 0, rest = bytes / 12; rest >= width; ++at) {
    const NamedShape& next = layer[at % layer.size()];
    NamedShape named{fmt::format("layers/{}/{}", at / layer.size(), next.name), next.shape};
    if (ElementCount(named.shape) > rest) named.shape = {rest / width, width};
    rest -= ElementCount(named.shape);
    for (const char* group : {"parameter/", "first_moment/", "second_moment/"}) {
      shapes.push_back({group + named.name, named.shape});
    }
  }
  return shapes;
}

absl::Status BenchCheckpoints(const CheckpointBenchOptions& options,
                              const std::function<void(const BenchComparison&)>& report) {
  return AtTheDoor([&] { return CheckpointBench(options, report).Run(); });
}

}  // namespace mnemo
