#include "src/ckpt/box.h"

#include <algorithm>
#include <cstring>

#include "src/core/status.h"

namespace mnemo {
namespace {

int64_t End(const Box& box, size_t dim) { return box.begin[dim] + box.shape[dim]; }

void Cut(const Box& box, int64_t limit, std::vector<Box>& runs) {
  const int64_t elements = ElementCount(box);
  if (elements <= limit) {
    runs.push_back(box);
    return;
  }
  size_t dim = 0;
  while (box.shape[dim] == 1) ++dim;  // there is one, as elements > limit >= 1
  const int64_t row = elements / box.shape[dim];
  const int64_t rows = std::max<int64_t>(1, limit / row);
  for (int64_t first = 0; first < box.shape[dim]; first += rows) {
    Box part = box;
    part.begin[dim] += first;
    part.shape[dim] = std::min(rows, box.shape[dim] - first);
    Cut(part, limit, runs);
  }
}

}  // namespace

Box WholeBox(const Shape& shape) { return {Shape(shape.size(), 0), shape}; }

int64_t ElementCount(const Box& box) { return ElementCount(box.shape); }

std::string ToString(const Box& box) {
  if (box.shape.empty()) return "the scalar";
  std::string text;
  for (size_t d = 0; d < box.shape.size(); ++d) {
    text += fmt::format("{}[{}, {})", d == 0 ? "" : " x ", box.begin[d], End(box, d));
  }
  return text;
}

bool LiesIn(const Box& box, const Shape& whole) {
  if (box.begin.size() != whole.size() || box.shape.size() != whole.size()) return false;
  for (size_t d = 0; d < whole.size(); ++d) {
    if (box.begin[d] < 0 || box.shape[d] < 0 || box.shape[d] > whole[d] ||
        box.begin[d] > whole[d] - box.shape[d]) {
      return false;
    }
  }
  return true;
}

std::optional<Box> Intersect(const Box& a, const Box& b) {
  Box shared = a;
  for (size_t d = 0; d < a.shape.size(); ++d) {
    shared.begin[d] = std::max(a.begin[d], b.begin[d]);
    shared.shape[d] = std::min(End(a, d), End(b, d)) - shared.begin[d];
    if (shared.shape[d] <= 0) return std::nullopt;
  }
  return shared;
}

int64_t OffsetIn(const Box& box, const Shape& at) {
  int64_t offset = 0;
  for (size_t d = 0; d < at.size(); ++d) {
    offset = offset * box.shape[d] + (at[d] - box.begin[d]);
  }
  return offset;
}

bool IsContiguousIn(const Box& part, const Box& whole) {
  size_t dim = 0;
  while (dim < part.shape.size() && part.shape[dim] == 1) ++dim;
  for (++dim; dim < part.shape.size(); ++dim) {
    if (part.shape[dim] != whole.shape[dim]) return false;
  }
  return true;
}

std::vector<Box> CutIntoRuns(const Box& box, int64_t limit) {
  MNEMO_CHECK(limit >= 1);
  std::vector<Box> runs;
  if (ElementCount(box) > 0) Cut(box, limit, runs);
  return runs;
}

absl::Status CheckCover(std::span<const Box> boxes, const Shape& whole) {
  std::vector<const Box*> order;
  uint64_t covered = 0;  // may wrap, but only where boxes overlap
  for (const Box& box : boxes) {
    covered += static_cast<uint64_t>(ElementCount(box));
    order.push_back(&box);
  }
  std::sort(order.begin(), order.end(), [](const Box* a, const Box* b) {
    return std::lexicographical_compare(a->begin.begin(), a->begin.end(), b->begin.begin(),
                                        b->begin.end());
  });
  for (size_t i = 0; i < order.size(); ++i) {
    for (size_t j = i + 1; j < order.size(); ++j) {
      if (!whole.empty() && order[j]->begin[0] >= End(*order[i], 0)) break;
      if (Intersect(*order[i], *order[j])) {
        return InvalidArgument("the pieces {} and {} overlap", ToString(*order[i]),
                               ToString(*order[j]));
      }
    }
  }
  const int64_t missing = ElementCount(whole) - static_cast<int64_t>(covered);
  if (missing == 0) return absl::OkStatus();
  return InvalidArgument("no piece holds {} of its {} elements", missing, ElementCount(whole));
}

void CopyShared(const Box& from, const char* source, const Box& to, char* target,
                int64_t element_bytes) {
  const std::optional<Box> shared = Intersect(from, to);
  if (!shared) return;
  const size_t rank = shared->shape.size();
  const int64_t run = rank == 0 ? 1 : shared->shape[rank - 1];
  Shape at = shared->begin;
  for (;;) {
    std::memcpy(target + OffsetIn(to, at) * element_bytes,
                source + OffsetIn(from, at) * element_bytes, run * element_bytes);
    size_t dim = rank > 0 ? rank - 1 : 0;  // the next row: an odometer over all dims but the last
    for (; dim > 0; --dim) {
      if (++at[dim - 1] < End(*shared, dim - 1)) break;
      at[dim - 1] = shared->begin[dim - 1];
    }
    if (dim == 0) return;
  }
}

}  // namespace mnemo
