#include <limits>
#include <vector>

#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"
#include "src/core/cpu/sums.h"

namespace mnemo {
namespace {

// Values that one piece of work reduces; longer reductions go through partial results.
constexpr int64_t kChunk = 65536;
constexpr int64_t kColumns = 256;  // columns reduced together

struct Dim {
  int64_t size, x_stride, out_stride;
};
using Dims = std::vector<Dim>;

// The dims that stay and those that are reduced, innermost first, merged where x allows.
struct Plan {
  Dims kept, reduced;
  int64_t kept_count = 1, reduced_count = 1;

  Plan(const Tensor& x, const Tensor& out) {
    for (int axis = x.rank(); axis-- > 0;) {
      int64_t size = x.shape()[axis];
      bool same = size == out.shape()[axis];
      MNEMO_CHECK(same || out.shape()[axis] == 1, "{} to {}", ToString(x.shape()),
                  ToString(out.shape()));
      if (size == 1) continue;
      (same ? kept : reduced).push_back({size, x.strides()[axis], same ? out.strides()[axis] : 0});
      (same ? kept_count : reduced_count) *= size;
    }
    Merge(&kept);
    Merge(&reduced);
  }

  static void Merge(Dims* dims) {
    std::stable_sort(dims->begin(), dims->end(),
                     [](const Dim& a, const Dim& b) { return a.x_stride < b.x_stride; });
    Dims merged;
    for (const Dim& dim : *dims) {
      if (!merged.empty() && dim.x_stride == merged.back().x_stride * merged.back().size &&
          dim.out_stride == merged.back().out_stride * merged.back().size) {
        merged.back().size *= dim.size;
      } else {
        merged.push_back(dim);
      }
    }
    if (merged.empty()) merged.push_back({1, 0, 0});
    *dims = std::move(merged);
  }
};

// Offset in x (and out) of an index into dims [first, ...).
int64_t Offset(const Dims& dims, size_t first, int64_t index, int64_t Dim::*stride) {
  int64_t offset = 0;
  for (size_t d = first; d < dims.size(); ++d) {
    offset += index % dims[d].size * (dims[d].*stride);
    index /= dims[d].size;
  }
  return offset;
}

template <typename T>
inline T Larger(T a, T b) {
  return (a > b) | (a != a) ? a : b;
}

// Accumulators: runs along a reduced dim, and rows of columns side by side.
template <typename T>
struct Sum {
  using Total = CompensatedSum;
  static void AddRunTo(const T* x, int64_t n, int64_t stride, Total* total) {
    AddRun(x, n, stride, total);
  }
  static void Merge(const Total& part, Total* total) { total->Add(part); }
  static T Value(const Total& total) { return static_cast<T>(total.value()); }
  static constexpr T kStart = 0;
  static T Step(T x, T state) { return state + x; }
  static void Flush(T state, Total* total) { total->Add(static_cast<double>(state)); }
};

template <typename T>
struct Maximum {
  struct Total {
    T value = -std::numeric_limits<T>::infinity();
  };
  static void AddRunTo(const T* x, int64_t n, int64_t stride, Total* total) {
    constexpr int kLanes = 16;
    T best = total->value;
    int64_t i = 0;
    if (stride == 1 && n >= kLanes) {
      T lanes[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = best;
      for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = Larger(x[i + lane], lanes[lane]);
      }
      for (T lane : lanes) best = Larger(lane, best);
    }
    for (; i < n; ++i) best = Larger(x[i * stride], best);
    total->value = best;
  }
  static void Merge(const Total& part, Total* total) {
    total->value = Larger(part.value, total->value);
  }
  static T Value(const Total& total) { return total.value; }
  static constexpr T kStart = -std::numeric_limits<T>::infinity();
  static T Step(T x, T state) { return Larger(x, state); }
  static void Flush(T state, Total* total) { total->value = Larger(state, total->value); }
};

template <typename T, typename Op>
void ReduceRuns(const Plan& plan, const T* x, T* out) {
  using Total = typename Op::Total;
  int64_t chunks = std::max<int64_t>(1, (plan.reduced_count + kChunk - 1) / kChunk);
  int64_t length = std::min(plan.reduced_count, kChunk);
  int64_t run = plan.reduced[0].size, stride = plan.reduced[0].x_stride;
  auto reduce = [&](int64_t output, int64_t chunk) {
    Total total;
    const T* base = x + Offset(plan.kept, 0, output, &Dim::x_stride);
    int64_t end = std::min(plan.reduced_count, (chunk + 1) * kChunk);
    for (int64_t i = chunk * kChunk; i < end;) {
      int64_t column = i % run, n = std::min(run - column, end - i);
      const T* first = base + Offset(plan.reduced, 1, i / run, &Dim::x_stride);
      Op::AddRunTo(first + column * stride, n, stride, &total);
      i += n;
    }
    return total;
  };
  auto write = [&](int64_t output, const Total& total) {
    out[Offset(plan.kept, 0, output, &Dim::out_stride)] = Op::Value(total);
  };
  int64_t grain = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, length));
  if (chunks == 1) {
    ParallelFor(plan.kept_count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) write(i, reduce(i, 0));
    });
    return;
  }
  std::vector<Total> parts(plan.kept_count * chunks);
  ParallelFor(plan.kept_count * chunks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) parts[i] = reduce(i / chunks, i % chunks);
  });
  for (int64_t i = 0; i < plan.kept_count; ++i) {
    for (int64_t c = 1; c < chunks; ++c) Op::Merge(parts[i * chunks + c], &parts[i * chunks]);
    write(i, parts[i * chunks]);
  }
}

// Reduces rows [begin, end) of `columns` columns into totals.
template <typename T, typename Op>
void ReduceRows(const Plan& plan, const T* base, int64_t columns, int64_t begin, int64_t end,
                typename Op::Total* totals) {
  int64_t stride = plan.kept[0].x_stride;
  T state[kColumns];
  for (int64_t first = begin; first < end; first += kSumBlock) {
    std::fill(state, state + columns, Op::kStart);
    for (int64_t row = first; row < std::min(end, first + kSumBlock); ++row) {
      const T* x = base + Offset(plan.reduced, 0, row, &Dim::x_stride);
      if (stride == 1) {
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) state[c] = Op::Step(x[c], state[c]);
      } else {
        for (int64_t c = 0; c < columns; ++c) state[c] = Op::Step(x[c * stride], state[c]);
      }
    }
    for (int64_t c = 0; c < columns; ++c) Op::Flush(state[c], &totals[c]);
  }
}

template <typename T, typename Op>
void ReduceColumns(const Plan& plan, const T* x, T* out) {
  using Total = typename Op::Total;
  int64_t width = plan.kept[0].size, block = std::min(width, kColumns);
  int64_t blocks = (width + block - 1) / block;
  int64_t outputs = plan.kept_count / width * blocks;
  int64_t chunk_rows = std::max<int64_t>(1, kChunk / block / kSumBlock) * kSumBlock;
  int64_t chunks = std::max<int64_t>(1, (plan.reduced_count + chunk_rows - 1) / chunk_rows);
  auto columns_of = [&](int64_t output) {
    return std::min(block, width - output % blocks * block);
  };
  auto reduce = [&](int64_t output, int64_t chunk, Total* totals) {
    const T* base = x + Offset(plan.kept, 1, output / blocks, &Dim::x_stride) +
                    output % blocks * block * plan.kept[0].x_stride;
    int64_t begin = chunk * chunk_rows, end = std::min(plan.reduced_count, begin + chunk_rows);
    ReduceRows<T, Op>(plan, base, columns_of(output), begin, end, totals);
  };
  auto write = [&](int64_t output, const Total* totals) {
    T* o = out + Offset(plan.kept, 1, output / blocks, &Dim::out_stride);
    for (int64_t c = 0, n = columns_of(output); c < n; ++c) {
      o[(output % blocks * block + c) * plan.kept[0].out_stride] = Op::Value(totals[c]);
    }
  };
  int64_t work = std::max<int64_t>(1, block * std::min(plan.reduced_count, chunk_rows));
  int64_t grain = std::max<int64_t>(1, kPieceElements / work);
  if (chunks == 1) {
    ParallelFor(outputs, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Total totals[kColumns];
        reduce(i, 0, totals);
        write(i, totals);
      }
    });
    return;
  }
  std::vector<Total> parts(outputs * chunks * block);
  ParallelFor(outputs * chunks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) reduce(i / chunks, i % chunks, &parts[i * block]);
  });
  for (int64_t i = 0; i < outputs; ++i) {
    Total* whole = &parts[i * chunks * block];
    for (int64_t c = 1; c < chunks; ++c) {
      for (int64_t j = 0; j < block; ++j) Op::Merge(whole[c * block + j], &whole[j]);
    }
    write(i, whole);
  }
}

template <typename T, typename Op>
void ReduceOf(const Plan& plan, const Tensor& x, const Tensor& out) {
  bool runs = plan.kept_count == 1 ||
              (plan.reduced_count != 1 && plan.reduced[0].x_stride < plan.kept[0].x_stride);
  if (runs) {
    ReduceRuns<T, Op>(plan, x.data<T>(), out.data<T>());
  } else {
    ReduceColumns<T, Op>(plan, x.data<T>(), out.data<T>());
  }
}

}  // namespace

void CpuDevice::Reduce(ReduceOp op, const Tensor& x, const Tensor& out) {
  MNEMO_CHECK(x.rank() == out.rank() && x.dtype() == out.dtype());
  if (out.elements() == 0) return;
  if (x.shape() == out.shape()) return Copy(x, out);
  if (x.elements() == 0) {
    return Fill(out, op == ReduceOp::kSum ? 0 : -std::numeric_limits<double>::infinity());
  }
  Plan plan(x, out);
  DispatchFloat(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (op == ReduceOp::kSum) {
      ReduceOf<T, Sum<T>>(plan, x, out);
    } else {
      ReduceOf<T, Maximum<T>>(plan, x, out);
    }
  });
}

}  // namespace mnemo
