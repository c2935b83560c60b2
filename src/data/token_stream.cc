#include "src/data/token_stream.h"

#include <algorithm>

#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr int64_t kGroupDocuments = 1024;

// Of things sorted by position, the first of them at or before `position`.
template <typename T>
const T& LastAtOrBefore(const std::vector<T>& things, int64_t position) {
  const auto next =
      std::upper_bound(things.begin(), things.end(), position,
                       [](int64_t value, const T& thing) { return value < thing.position; });
  return *(next - 1);
}

}  // namespace

int64_t TokenStream::Padded(int64_t length) const {
  return (length + alignment_ - 1) / alignment_ * alignment_;
}

absl::StatusOr<std::unique_ptr<TokenStream>> TokenStream::Open(std::shared_ptr<const TokenSet> set,
                                                               DocumentLayout layout,
                                                               int64_t alignment) {
  if (alignment < 1) return InvalidArgument("an alignment of {} tokens", alignment);
  std::unique_ptr<TokenStream> stream(new TokenStream);
  stream->set_ = std::move(set);
  stream->layout_ = layout;
  stream->alignment_ = alignment;
  if (layout == DocumentLayout::kAligned) {
    MNEMO_RETURN_IF_ERROR(stream->BuildGroups());
  } else {
    stream->length_ = stream->targets_ = stream->set_->tokens() - 1;
  }
  if (stream->length_ < 1) {
    return InvalidArgument("the data set has {} tokens: too few for a token and its target",
                           stream->set_->tokens());
  }
  return stream;
}

absl::Status TokenStream::BuildGroups() {
  std::vector<uint64_t> offsets;
  for (int shard = 0; shard < set_->shards(); ++shard) {
    const ShardHeader& header = set_->shard(shard).header();
    for (int64_t first = 0; first < header.documents; first += kGroupDocuments) {
      const int64_t count = std::min(kGroupDocuments, header.documents - first);
      groups_.push_back({length_, first, targets_, shard, static_cast<int32_t>(count)});
      // Documents() also checks that the offsets make sense.
      MNEMO_ASSIGN_OR_RETURN(const std::vector<Document> documents, Documents(groups_.back()));
      const Document& last = documents.back();
      length_ = last.position + Padded(last.length);
      targets_ = last.targets + last.length - 1;
    }
  }
  return absl::OkStatus();
}

const TokenStream::Group& TokenStream::GroupAt(int64_t position) const {
  return LastAtOrBefore(groups_, position);
}

absl::StatusOr<std::vector<TokenStream::Document>> TokenStream::Documents(
    const Group& group) const {
  ShardReader& shard = set_->shard(group.shard);
  std::vector<uint64_t> offsets(static_cast<size_t>(group.documents) + 1);
  MNEMO_RETURN_IF_ERROR(shard.ReadOffsets(group.first_document, offsets));
  std::vector<Document> documents;
  documents.reserve(offsets.size());
  int64_t position = group.position;
  int64_t targets = group.targets;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (offsets[i + 1] <= offsets[i] ||
        offsets[i + 1] > static_cast<uint64_t>(shard.header().tokens)) {
      return DataLoss("{}: the end of document {} is out of order; prepare the data again",
                      shard.path(), group.first_document + static_cast<int64_t>(i));
    }
    const int64_t length = static_cast<int64_t>(offsets[i + 1] - offsets[i]);
    documents.push_back({position, static_cast<int64_t>(offsets[i]), length, targets});
    position += Padded(length);
    targets += length - 1;
  }
  return documents;
}

absl::StatusOr<int64_t> TokenStream::TargetsBefore(int64_t position) const {
  if (layout_ == DocumentLayout::kConcatenated || position == 0) return position;
  if (position == length_) return targets_;
  MNEMO_ASSIGN_OR_RETURN(const std::vector<Document> documents, Documents(GroupAt(position)));
  const Document& document = LastAtOrBefore(documents, position);
  return document.targets + std::min(position - document.position, document.length - 1);
}

absl::StatusOr<int64_t> TokenStream::DocumentStart(int64_t position) const {
  if (position < 0 || position >= length_) {
    return InvalidArgument("position {} lies outside the stream's {}", position, length_);
  }
  if (layout_ == DocumentLayout::kConcatenated) return 0;
  MNEMO_ASSIGN_OR_RETURN(const std::vector<Document> documents, Documents(GroupAt(position)));
  return LastAtOrBefore(documents, position).position;
}

absl::StatusOr<int64_t> TokenStream::CountTargets(int64_t begin, int64_t end) const {
  if (begin < 0 || begin > end || end > length_) {
    return InvalidArgument("positions [{}, {}) lie outside the stream's {}", begin, end, length_);
  }
  MNEMO_ASSIGN_OR_RETURN(const int64_t before, TargetsBefore(begin));
  MNEMO_ASSIGN_OR_RETURN(const int64_t up_to, TargetsBefore(end));
  return up_to - before;
}

absl::StatusOr<int64_t> TokenStream::Read(int64_t begin, std::span<int32_t> tokens,
                                          std::span<int32_t> targets,
                                          std::span<uint8_t> resets) const {
  const int64_t count = static_cast<int64_t>(tokens.size());
  MNEMO_CHECK(targets.size() == tokens.size() &&
                  static_cast<int64_t>(resets.size()) == Padded(count) / alignment_,
              "{} tokens, {} targets, {} resets", count, targets.size(), resets.size());
  if (begin < 0 || count > length_ - begin) {
    return InvalidArgument("positions [{}, {}) lie outside the stream's {}", begin, begin + count,
                           length_);
  }
  std::fill(resets.begin(), resets.end(), uint8_t{0});
  if (count == 0) return 0;
  if (layout_ == DocumentLayout::kConcatenated) return ReadConcatenated(begin, tokens, targets);
  if (begin % alignment_ != 0) {
    return InvalidArgument("position {} is not a multiple of the alignment {}", begin, alignment_);
  }
  return ReadAligned(begin, tokens, targets, resets);
}

absl::StatusOr<int64_t> TokenStream::ReadConcatenated(int64_t begin, std::span<int32_t> tokens,
                                                      std::span<int32_t> targets) const {
  MNEMO_RETURN_IF_ERROR(set_->ReadTokens(begin, tokens));
  std::copy(tokens.begin() + 1, tokens.end(), targets.begin());
  const int64_t count = static_cast<int64_t>(tokens.size());
  MNEMO_RETURN_IF_ERROR(set_->ReadTokens(begin + count, targets.last(1)));
  return count;
}

absl::StatusOr<int64_t> TokenStream::ReadAligned(int64_t begin, std::span<int32_t> tokens,
                                                 std::span<int32_t> targets,
                                                 std::span<uint8_t> resets) const {
  const int64_t end = begin + static_cast<int64_t>(tokens.size());
  std::fill(tokens.begin(), tokens.end(), set_->tokenizer().separator);
  std::fill(targets.begin(), targets.end(), kNoTarget);
  int64_t valid = 0;
  std::vector<int32_t> raw;
  for (const Group* group = &GroupAt(begin);
       group != groups_.data() + groups_.size() && group->position < end; ++group) {
    MNEMO_ASSIGN_OR_RETURN(const std::vector<Document> documents, Documents(*group));
    for (const Document& document : documents) {
      // [from, to): the part of the document inside the range, counted from the document's start.
      const int64_t from = std::max<int64_t>(begin - document.position, 0);
      const int64_t to = std::min(end - document.position, document.length);
      if (from >= to) continue;
      const size_t at = static_cast<size_t>(document.position + from - begin);
      if (from == 0) resets[at / static_cast<size_t>(alignment_)] = 1;
      // One token more than the part, if the document has it: the last target.
      const int64_t with_target = std::min(to + 1, document.length);
      raw.resize(static_cast<size_t>(with_target - from));
      MNEMO_RETURN_IF_ERROR(set_->shard(group->shard).ReadTokens(document.token + from, raw));
      std::copy_n(raw.begin(), to - from, tokens.begin() + static_cast<int64_t>(at));
      std::copy(raw.begin() + 1, raw.end(), targets.begin() + static_cast<int64_t>(at));
      valid += static_cast<int64_t>(raw.size()) - 1;
    }
  }
  return valid;
}

}  // namespace mnemo
