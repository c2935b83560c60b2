#include "src/parallel/packed_tensors.h"

#include <cstring>

#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr int64_t kMagic = 0x6d6e656d6f000001;  // changes with the layout
constexpr int64_t kAlignment = 64;
constexpr int64_t kMaxRank = 16;

int64_t Aligned(int64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

// Words from the front of a message, each checked to be there.
class WordReader {
 public:
  explicit WordReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  bool Read(int64_t& word) {
    if (bytes_.size() - offset_ < sizeof(word)) return false;
    std::memcpy(&word, bytes_.data() + offset_, sizeof(word));
    offset_ += sizeof(word);
    return true;
  }
  int64_t offset() const { return static_cast<int64_t>(offset_); }

 private:
  std::span<const std::byte> bytes_;
  size_t offset_ = 0;
};

bool ReadTensor(WordReader& words, int64_t limit, DType& dtype, Shape& shape) {
  int64_t type = 0, rank = 0;
  if (!words.Read(type) || !words.Read(rank)) return false;
  if (type < 0 || type > static_cast<int64_t>(DType::kI32) || rank < 0 || rank > kMaxRank) {
    return false;
  }
  dtype = static_cast<DType>(type);
  int64_t elements = 1;
  for (int64_t i = 0; i < rank; ++i) {
    int64_t dim = 0;
    if (!words.Read(dim) || dim < 0) return false;
    if (dim > 0 && elements > limit / dim) return false;
    elements *= dim;
    shape.push_back(dim);
  }
  return true;
}

}  // namespace

void PackTensors(const Unit& unit, const std::vector<Tensor>& tensors,
                 std::vector<std::byte>& into) {
  std::vector<int64_t> words{kMagic, unit.micro_batch, unit.slice, unit.layer,
                             static_cast<int64_t>(tensors.size())};
  int64_t payload = 0;
  for (const Tensor& tensor : tensors) {
    MNEMO_CHECK(tensor.defined() && tensor.device().type == DeviceType::kCpu);
    words.push_back(static_cast<int64_t>(tensor.dtype()));
    words.push_back(tensor.rank());
    words.insert(words.end(), tensor.shape().begin(), tensor.shape().end());
    payload += Aligned(tensor.bytes());
  }
  const int64_t header = static_cast<int64_t>(words.size() * sizeof(int64_t));
  into.resize(static_cast<size_t>(Aligned(header) + payload));
  std::memcpy(into.data(), words.data(), static_cast<size_t>(header));
  int64_t offset = Aligned(header);
  for (const Tensor& tensor : tensors) {
    const Tensor flat = tensor.Contiguous();
    if (flat.bytes() > 0) std::memcpy(into.data() + offset, flat.raw(), flat.bytes());
    offset += Aligned(flat.bytes());
  }
}

absl::StatusOr<UnpackedTensors> UnpackTensors(std::span<const std::byte> bytes) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  const auto broken = [&] { return DataLoss("{} bytes that are no list of tensors", size); };
  WordReader words(bytes);
  int64_t magic = 0, micro_batch = 0, slice = 0, layer = 0, count = 0;
  if (!words.Read(magic) || magic != kMagic || !words.Read(micro_batch) || !words.Read(slice) ||
      !words.Read(layer) || !words.Read(count) || count < 0 || count > size) {
    return broken();
  }
  UnpackedTensors result;
  result.unit = {static_cast<int>(micro_batch), slice, static_cast<int>(layer)};
  std::vector<std::pair<DType, Shape>> list(static_cast<size_t>(count));
  for (auto& [dtype, shape] : list) {
    if (!ReadTensor(words, size, dtype, shape)) return broken();
  }
  int64_t offset = Aligned(words.offset());
  for (const auto& [dtype, shape] : list) {
    const int64_t length = ElementCount(shape) * SizeOf(dtype);
    if (offset > size || Aligned(length) > size - offset) return broken();
    Tensor tensor = Tensor::Empty(shape, dtype);
    if (length > 0) std::memcpy(tensor.raw(), bytes.data() + offset, length);
    result.tensors.push_back(std::move(tensor));
    offset += Aligned(length);
  }
  if (offset != size) return broken();
  return result;
}

}  // namespace mnemo
