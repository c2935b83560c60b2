// Direct exchange: every rank talks to every other. With the few ranks of a group (tp, dp x sp on
// CPUs) that moves as little as a ring and waits once instead of size - 1 times.

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "src/core/backend.h"
#include "src/core/status.h"
#include "src/parallel/communicator.h"
#include "src/parallel/gather_work.h"

namespace mnemo {
namespace {

// Up to here an all-reduce sends whole tensors: one exchange instead of two.
constexpr int64_t kSmallBytes = 16 << 10;
// A reduce-scatter exchanges its pieces in blocks, two at a time, which bounds the memory for what
// comes in to 2 (size - 1) blocks.
constexpr int64_t kBlockBytes = 256 << 10;

template <typename T>
void AddTo(T* sum, const T* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
}

void AddBytes(DType dtype, std::byte* sum, const std::byte* values, int64_t bytes) {
  if (dtype == DType::kF64) {
    AddTo(reinterpret_cast<double*>(sum), reinterpret_cast<const double*>(values), bytes / 8);
  } else {
    AddTo(reinterpret_cast<float*>(sum), reinterpret_cast<const float*>(values), bytes / 4);
  }
}

absl::Status CheckTensor(const char* what, const Tensor& tensor) {
  if (tensor.defined() && tensor.contiguous()) return absl::OkStatus();
  return InvalidArgument("{}: takes contiguous tensors", what);
}

// A tensor's values in host memory: the tensor itself if it is there.
Tensor OnHost(const Tensor& tensor) { return tensor.To(Device{}); }

// What has become of them, back to where the tensor is.
void PutBack(const Tensor& host, const Tensor& tensor) {
  if (tensor.device() == host.device()) return;
  Backend::For(tensor.device()).CopyFromHost(host.raw(), tensor);
}

// Of a group of one, from a tensor to another or to itself.
void CopyAlone(const Tensor& from, const Tensor& to) {
  if (from.raw() != to.raw()) Backend::For(to.device()).Copy(from, to);
}

absl::Status CheckSummable(const char* what, DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kF64) return absl::OkStatus();
  return InvalidArgument("{}: sums f32 and f64, not {}", what, Name(dtype));
}

class HostCommunicator : public Communicator {
 public:
  HostCommunicator(Transport& transport, const CommunicatorOptions& options)
      : transport_(transport), options_(options) {
    const auto found = std::find(options.ranks.begin(), options.ranks.end(), transport.rank());
    MNEMO_CHECK(found != options.ranks.end());
    rank_ = static_cast<int>(found - options.ranks.begin());
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(options_.ranks.size()); }

  absl::Status Barrier() override;
  absl::Status Broadcast(int root, const Tensor& tensor) override;
  absl::Status AllReduceSum(const Tensor& tensor) override;
  absl::Status ReduceScatterSum(const Tensor& all, const Tensor& mine, Pieces pieces) override;
  absl::Status AllGather(const Tensor& mine, const Tensor& all, Pieces pieces) override;
  absl::StatusOr<std::vector<std::string>> AllGatherStrings(std::string_view mine) override;
  absl::StatusOr<std::vector<std::string>> AllGatherWork(
      const std::function<std::string()>& work) override {
    return GatherWork(transport_, options_, work);
  }
  absl::Status AllReduceSum(std::span<double> values) override;

 private:
  using Bytes = std::span<std::byte>;
  struct Block;

  Transfer Send(int to, std::span<const std::byte> bytes) {
    return transport_.Send(options_.ranks[to], options_.channel, bytes);
  }
  Transfer Receive(int from, Bytes into) {
    return transport_.Receive(options_.ranks[from], options_.channel, into);
  }
  absl::Status Wait(std::vector<Transfer>& transfers) {
    for (Transfer& transfer : transfers) {
      if (transfer.valid()) MNEMO_RETURN_IF_ERROR(transfer.Wait(options_.timeout));
    }
    return absl::OkStatus();
  }

  absl::Status Reduce(DType dtype, Bytes all);
  absl::Status ReduceSmall(DType dtype, Bytes all);
  absl::Status ReduceScatter(DType dtype, Bytes all, Bytes mine,
                             const std::vector<int64_t>& begins);
  absl::Status Gather(Bytes all, const std::vector<int64_t>& begins);
  void Post(Bytes all, const std::vector<int64_t>& begins, int64_t offset, Block& block);
  absl::Status Sum(DType dtype, Bytes own, Bytes into, Block& block);
  absl::Status CheckPieces(const char* what, const Tensor& mine, const Tensor& all, Pieces pieces);

  Transport& transport_;
  CommunicatorOptions options_;
  int rank_ = 0;
};

// Byte offsets of pieces, and their end.
std::vector<int64_t> Begins(std::span<const int64_t> pieces, int64_t element) {
  std::vector<int64_t> begins{0};
  for (const int64_t count : pieces) begins.push_back(begins.back() + count * element);
  return begins;
}

std::span<std::byte> BytesOf(const Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.raw()), static_cast<size_t>(tensor.bytes())};
}

absl::Status HostCommunicator::Barrier() {
  // After round k a rank has heard, through others, from the 2^(k + 1) ranks before it.
  for (int step = 1; step < size(); step *= 2) {
    std::byte out{}, in{};
    std::vector<Transfer> transfers;
    transfers.push_back(Receive((rank_ - step + size()) % size(), {&in, 1}));
    transfers.push_back(Send((rank_ + step) % size(), {&out, 1}));
    MNEMO_RETURN_IF_ERROR(Wait(transfers));
  }
  return absl::OkStatus();
}

absl::Status HostCommunicator::Broadcast(int root, const Tensor& tensor) {
  MNEMO_RETURN_IF_ERROR(CheckTensor("broadcast", tensor));
  if (root < 0 || root >= size()) {
    return InvalidArgument("broadcast: root {} of {} ranks", root, size());
  }
  if (size() == 1) return absl::OkStatus();
  const Tensor host = OnHost(tensor);
  // Counted from the root, a rank receives from the one without its highest bit and sends to those
  // with one more.
  const int place = (rank_ - root + size()) % size();
  int step = 1;
  for (; step <= place; step *= 2) {
  }
  std::vector<Transfer> transfers;
  if (place > 0) {
    transfers.push_back(Receive((place - step / 2 + root) % size(), BytesOf(host)));
    MNEMO_RETURN_IF_ERROR(Wait(transfers));
    PutBack(host, tensor);
  }
  for (; place + step < size(); step *= 2) {
    transfers.push_back(Send((place + step + root) % size(), BytesOf(host)));
  }
  return Wait(transfers);
}

absl::Status HostCommunicator::AllReduceSum(const Tensor& tensor) {
  MNEMO_RETURN_IF_ERROR(CheckTensor("all-reduce", tensor));
  MNEMO_RETURN_IF_ERROR(CheckSummable("all-reduce", tensor.dtype()));
  if (size() == 1) return absl::OkStatus();
  const Tensor host = OnHost(tensor);
  MNEMO_RETURN_IF_ERROR(Reduce(tensor.dtype(), BytesOf(host)));
  PutBack(host, tensor);
  return absl::OkStatus();
}

absl::Status HostCommunicator::AllReduceSum(std::span<double> values) {
  return Reduce(DType::kF64, std::as_writable_bytes(values));
}

absl::Status HostCommunicator::Reduce(DType dtype, Bytes all) {
  if (size() == 1 || all.empty()) return absl::OkStatus();
  if (static_cast<int64_t>(all.size()) <= kSmallBytes) return ReduceSmall(dtype, all);
  const int64_t element = SizeOf(dtype);
  const std::vector<int64_t> begins =
      Begins(EvenPieces(static_cast<int64_t>(all.size()) / element, size()), element);
  const Bytes mine = all.subspan(begins[rank_], begins[rank_ + 1] - begins[rank_]);
  MNEMO_RETURN_IF_ERROR(ReduceScatter(dtype, all, mine, begins));
  return Gather(all, begins);
}

absl::Status HostCommunicator::ReduceSmall(DType dtype, Bytes all) {
  std::vector<std::vector<std::byte>> from(size(), {all.begin(), all.end()});
  std::vector<Transfer> transfers;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank_) continue;
    transfers.push_back(Receive(peer, from[peer]));
    transfers.push_back(Send(peer, from[rank_]));
  }
  MNEMO_RETURN_IF_ERROR(Wait(transfers));
  std::memcpy(all.data(), from[0].data(), all.size());
  for (int peer = 1; peer < size(); ++peer) {
    AddBytes(dtype, all.data(), from[peer].data(), static_cast<int64_t>(all.size()));
  }
  return absl::OkStatus();
}

// The part of every piece that is exchanged at once: what others hold of the own piece.
struct HostCommunicator::Block {
  std::vector<std::vector<std::byte>> incoming;  // by rank
  std::vector<Transfer> transfers;
};

void HostCommunicator::Post(Bytes all, const std::vector<int64_t>& begins, int64_t offset,
                            Block& block) {
  const auto length = [&](int piece) {
    return std::clamp<int64_t>(begins[piece + 1] - begins[piece] - offset, 0, kBlockBytes);
  };
  block.incoming.resize(size());
  block.transfers.clear();
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank_) continue;
    if (length(rank_) > 0) {
      block.incoming[peer].resize(length(rank_));
      block.transfers.push_back(Receive(peer, block.incoming[peer]));
    }
    if (length(peer) > 0) {
      block.transfers.push_back(Send(peer, all.subspan(begins[peer] + offset, length(peer))));
    }
  }
}

absl::Status HostCommunicator::Sum(DType dtype, Bytes own, Bytes into, Block& block) {
  MNEMO_RETURN_IF_ERROR(Wait(block.transfers));
  if (own.empty()) return absl::OkStatus();
  const int64_t bytes = static_cast<int64_t>(own.size());
  // Taken aside first: `into` may be the same memory.
  block.incoming[rank_].assign(own.begin(), own.end());
  std::memcpy(into.data(), block.incoming[0].data(), own.size());
  for (int peer = 1; peer < size(); ++peer) {
    AddBytes(dtype, into.data(), block.incoming[peer].data(), bytes);
  }
  return absl::OkStatus();
}

absl::Status HostCommunicator::ReduceScatter(DType dtype, Bytes all, Bytes mine,
                                             const std::vector<int64_t>& begins) {
  int64_t longest = 0;
  for (int piece = 0; piece < size(); ++piece) {
    longest = std::max(longest, begins[piece + 1] - begins[piece]);
  }
  const int64_t blocks = (longest + kBlockBytes - 1) / kBlockBytes;
  const Bytes own = all.subspan(begins[rank_], mine.size());
  const auto part = [&](Bytes bytes, int64_t index) {
    const size_t begin = std::min<size_t>(index * kBlockBytes, bytes.size());
    return bytes.subspan(begin, std::min<size_t>(kBlockBytes, bytes.size() - begin));
  };
  Block under_way[2];
  if (blocks > 0) Post(all, begins, 0, under_way[0]);
  for (int64_t i = 0; i < blocks; ++i) {
    if (i + 1 < blocks) Post(all, begins, (i + 1) * kBlockBytes, under_way[(i + 1) % 2]);
    MNEMO_RETURN_IF_ERROR(Sum(dtype, part(own, i), part(mine, i), under_way[i % 2]));
  }
  return absl::OkStatus();
}

absl::Status HostCommunicator::Gather(Bytes all, const std::vector<int64_t>& begins) {
  const auto piece = [&](int of) { return all.subspan(begins[of], begins[of + 1] - begins[of]); };
  std::vector<Transfer> transfers;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank_) continue;
    if (!piece(peer).empty()) transfers.push_back(Receive(peer, piece(peer)));
    if (!piece(rank_).empty()) transfers.push_back(Send(peer, piece(rank_)));
  }
  return Wait(transfers);
}

absl::Status HostCommunicator::CheckPieces(const char* what, const Tensor& mine, const Tensor& all,
                                           Pieces pieces) {
  MNEMO_RETURN_IF_ERROR(CheckTensor(what, mine));
  MNEMO_RETURN_IF_ERROR(CheckTensor(what, all));
  const int64_t sum = std::accumulate(pieces.begin(), pieces.end(), int64_t{0});
  if (pieces.size() != static_cast<size_t>(size()) || mine.dtype() != all.dtype() ||
      all.elements() != sum || mine.elements() != pieces[rank_]) {
    return InvalidArgument(
        "{}: {} pieces of {} elements in all for {} ranks; a tensor of {} {} elements, and {} of "
        "its "
        "own of {}",
        what, pieces.size(), sum, size(), all.elements(), Name(all.dtype()), mine.elements(),
        Name(mine.dtype()));
  }
  return absl::OkStatus();
}

absl::Status HostCommunicator::ReduceScatterSum(const Tensor& all, const Tensor& mine,
                                                Pieces pieces) {
  MNEMO_RETURN_IF_ERROR(CheckPieces("reduce-scatter", mine, all, pieces));
  MNEMO_RETURN_IF_ERROR(CheckSummable("reduce-scatter", all.dtype()));
  if (size() == 1) {
    CopyAlone(all, mine);
    return absl::OkStatus();
  }
  // On the host `mine` may be a part of `all`, and is then written in place.
  const Tensor host = OnHost(all);
  const Tensor host_mine = OnHost(mine);
  MNEMO_RETURN_IF_ERROR(ReduceScatter(all.dtype(), BytesOf(host), BytesOf(host_mine),
                                      Begins(pieces, SizeOf(all.dtype()))));
  PutBack(host_mine, mine);
  return absl::OkStatus();
}

absl::Status HostCommunicator::AllGather(const Tensor& mine, const Tensor& all, Pieces pieces) {
  MNEMO_RETURN_IF_ERROR(CheckPieces("all-gather", mine, all, pieces));
  if (size() == 1) {
    CopyAlone(mine, all);
    return absl::OkStatus();
  }
  const Tensor host = OnHost(all), host_mine = OnHost(mine);
  const std::vector<int64_t> begins = Begins(pieces, SizeOf(all.dtype()));
  std::byte* own = BytesOf(host).data() + begins[rank_];
  if (mine.bytes() > 0) std::memmove(own, host_mine.raw(), mine.bytes());
  MNEMO_RETURN_IF_ERROR(Gather(BytesOf(host), begins));
  PutBack(host, all);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> HostCommunicator::AllGatherStrings(std::string_view mine) {
  std::vector<std::vector<std::byte>> from(size());
  std::vector<Transfer> transfers;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank_) continue;
    transfers.push_back(
        transport_.ReceiveMessage(options_.ranks[peer], options_.channel, &from[peer]));
    transfers.push_back(Send(peer, std::as_bytes(std::span(mine))));
  }
  MNEMO_RETURN_IF_ERROR(Wait(transfers));
  std::vector<std::string> strings;
  for (const std::vector<std::byte>& bytes : from) {
    strings.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  strings[rank_] = std::string(mine);
  return strings;
}

}  // namespace

std::vector<int64_t> EvenPieces(int64_t count, int ranks) {
  std::vector<int64_t> pieces(ranks, count / ranks);
  for (int64_t i = 0; i < count % ranks; ++i) ++pieces[i];
  return pieces;
}

int64_t ReductionBufferBytes(int64_t bytes, int ranks) {
  if (ranks == 1) return 0;
  if (bytes <= kSmallBytes) return bytes * ranks;
  return 2 * ranks * std::min(kBlockBytes, (bytes + ranks - 1) / ranks);
}

std::unique_ptr<Communicator> MakeHostCommunicator(Transport& transport,
                                                   const CommunicatorOptions& options) {
  return std::make_unique<HostCommunicator>(transport, options);
}

}  // namespace mnemo
