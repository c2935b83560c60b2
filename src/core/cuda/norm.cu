#include "src/core/cuda/layer_rows.cuh"

// y = x r w with r = 1 / sqrt(mean(x^2) + epsilon), so with g = grad_y w:
//   grad_x = r (g - x r^2 mean(g x)),   grad_w = sum over rows of grad_y x r.
//
// NormGrid says how rows are spread: a team of warps has one segment of a row at a time, a thread
// up to 4 vectors of 8 features of it, all in registers. Several narrow parts share a segment, each
// held by a group of lanes; a wide part is a segment. A thread always sees the same features of a
// row, so that it adds up its share of grad_w in registers; a block adds up its threads' and leaves
// one share in scratch memory, [shares, width].
namespace mnemo::cuda {
namespace {

constexpr int kVectors = kNormVectors, kWarps = kNormWarps;
constexpr int kThreads = 32 * kWarps;
// f32 rows need more registers.
template <typename T>
constexpr int kForward = sizeof(T) == 2 ? kNormForwardBlocks : 4;
template <typename T>
constexpr int kBackward = sizeof(T) == 2 ? kNormBackwardBlocks : 2;

struct Sizes {
  int64_t rows, features;  // of NormGrid; features of all rows there are
  int width, segment, part, copies;
  int team, teams;  // warps of a team, teams of a block
  float epsilon, inverse_part;
};

// What a thread has of every row, and its team's sums on their way between its warps.
struct Seat {
  int team, warp;  // of the block; of the team
  int offset;      // of the segment in a row
  int length;      // of the segment
  int first;       // first feature of the thread in the segment

  __device__ __forceinline__ explicit Seat(const Sizes& s) {
    const int block_warp = WarpOfBlock();
    team = block_warp / s.team;
    warp = block_warp - team * s.team;
    offset = static_cast<int>(blockIdx.y) * s.segment;
    length = min(s.segment, s.width - offset);
    first = (warp * 32 + static_cast<int>(threadIdx.x) % 32) * kLane;
  }
  // The thread's i-th vector.
  __device__ __forceinline__ int at(const Sizes& s, int i) const {
    return first + i * s.team * 32 * kLane;
  }
  // Features of the segment in this row: the last row may be cut short, rows behind it have none.
  __device__ __forceinline__ int Here(const Sizes& s, int64_t row) const {
    const int64_t left = s.features - row * s.width - offset;
    return left < length ? static_cast<int>(left) : length;
  }
};

// Adds up the numbers of a team's threads, for all of them; called by all threads of the block.
// Slots of shared memory take turns, so that one barrier a sum suffices.
template <int kSums>
struct TeamSum {
  float (*slots)[kWarps][kSums];  // 2
  int turn = 0;

  __device__ __forceinline__ void operator()(const Sizes& s, const Seat& seat, float (&x)[kSums]) {
    GroupSums(x, 32);
    if (s.team == 1) return;
    auto& slot = slots[turn];
    turn ^= 1;
    const int begin = seat.team * s.team;
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) slot[begin + seat.warp][i] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSums; ++i) x[i] = 0;
    for (int w = 0; w < s.team; ++w) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) x[i] += slot[begin + w][i];
    }
  }
};

// Whether the thread has another turn. Teams whose sums need barriers all have as many, the last
// one maybe for a row that is not there.
template <bool kGroup>
__device__ __forceinline__ bool GoesOn(const Sizes& s, const Seat& seat, int64_t row) {
  return row - (kGroup ? 0 : seat.team) < s.rows;
}

// Sums over parts of `kSums` numbers of each vector, [vector * kSums + i].
template <bool kGroup, int kSums>
__device__ __forceinline__ void PartSums(const Sizes& s, const Seat& seat, TeamSum<kSums>* team_sum,
                                         float (&x)[kVectors * kSums]) {
  if constexpr (kGroup) {
    GroupSums(x, s.part / kLane);
  } else {
    float total[kSums] = {};
#pragma unroll
    for (int i = 0; i < kVectors * kSums; ++i) total[i % kSums] += x[i];
    (*team_sum)(s, seat, total);
#pragma unroll
    for (int i = 0; i < kVectors * kSums; ++i) x[i] = total[i % kSums];
  }
}

__device__ __forceinline__ float InverseRms(float squares, const Sizes& s) {
  return rsqrtf(fmaf(squares, s.inverse_part, s.epsilon));
}

// The weights of the thread's features.
__device__ __forceinline__ void LoadWeights(const Sizes& s, const Seat& seat, const float* weight,
                                            Lane (&w)[kVectors]) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = seat.at(s, i);
    if (at < seat.length) w[i] = LoadLane(weight + (seat.offset + at) % (s.width / s.copies));
  }
}

template <typename T>
__device__ __forceinline__ void LoadRow(const Sizes& s, const Seat& seat, const T* from, int here,
                                        Raw<T> (&row)[kVectors]) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = seat.at(s, i);
    row[i] = {};
    if (at < here) row[i] = LoadRaw(from + at);
  }
}

template <typename T, bool kGroup>
__global__ void __launch_bounds__(kThreads, kForward<T>)
    Forward(Sizes s, const T* x, const float* weight, T* y) {
  __shared__ float slots[2][kWarps][1];
  TeamSum<1> team_sum{slots};
  const Seat seat(s);
  Lane w[kVectors] = {};
  LoadWeights(s, seat, weight, w);
  for (int64_t row = int64_t{blockIdx.x} * s.teams + seat.team; GoesOn<kGroup>(s, seat, row);
       row += int64_t{gridDim.x} * s.teams) {
    const int64_t start = row * s.width + seat.offset;
    const int here = seat.Here(s, row);
    Raw<T> raw[kVectors];
    LoadRow(s, seat, x + start, here, raw);
    float sums[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const Lane values = Widen(raw[i]);
      sums[i] = Dot(values, values);
      StayRaw(&raw[i]);
    }
    PartSums<kGroup>(s, seat, &team_sum, sums);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const float r = InverseRms(sums[i], s);
      Lane values = Widen(raw[i]);
#pragma unroll
      for (int j = 0; j < kLane; ++j) values.at[j] *= r * w[i].at[j];
      const int at = seat.at(s, i);
      if (at < here) StoreLane(y + start + at, values);
    }
  }
}

// The block's share of grad_w: sums over its teams and over the copies of a row.
__device__ __forceinline__ void StoreShare(const Sizes& s, const Seat& seat,
                                           const Lane (&grad_w)[kVectors], float* sums,
                                           float* shares) {
  const int of_team = s.team * kVectors * 32 * kLane;  // floats
#pragma unroll
  for (int i = 0; i < kVectors; ++i)
    StoreLane(sums + seat.team * of_team + seat.at(s, i), grad_w[i]);
  __syncthreads();
  const int width = s.width / s.copies, features = min(seat.length, width);
  for (int f = static_cast<int>(threadIdx.x) * 4; f < features;
       f += static_cast<int>(blockDim.x) * 4) {
    float4 sum = {};
    for (int of = 0; of < s.teams * s.copies; ++of) {
      const int at = of / s.copies * of_team + of % s.copies * width + f;
      const float4 own = *reinterpret_cast<const float4*>(sums + at);
      sum = {sum.x + own.x, sum.y + own.y, sum.z + own.z, sum.w + own.w};
    }
    *reinterpret_cast<float4*>(shares + int64_t{blockIdx.x} * width + seat.offset + f) = sum;
  }
}

template <typename T, bool kGroup>
__global__ void __launch_bounds__(kThreads, kBackward<T>)
    Backward(Sizes s, const T* x, const float* weight, const T* grad_y, const T* addend, T* grad_x,
             float* shares) {
  __shared__ float slots[2][kWarps][2];
  __shared__ float4 shared[kWarps * kVectors * 32 * kLane / 4];
  TeamSum<2> team_sum{slots};
  const Seat seat(s);
  Lane w[kVectors] = {}, grad_w[kVectors] = {};
  LoadWeights(s, seat, weight, w);
  for (int64_t row = int64_t{blockIdx.x} * s.teams + seat.team; GoesOn<kGroup>(s, seat, row);
       row += int64_t{gridDim.x} * s.teams) {
    const int64_t start = row * s.width + seat.offset;
    const int here = seat.Here(s, row);
    Raw<T> raw[kVectors], raw_dy[kVectors], before[kVectors];
    LoadRow(s, seat, x + start, here, raw);
    LoadRow(s, seat, grad_y + start, here, raw_dy);
    LoadRow(s, seat, addend + start, addend == nullptr ? 0 : here, before);
    float sums[kVectors * 2] = {};  // of x^2 and of g x
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const Lane values = Widen(raw[i]), dy = Widen(raw_dy[i]);
#pragma unroll
      for (int j = 0; j < kLane; ++j) {
        sums[2 * i] = fmaf(values.at[j], values.at[j], sums[2 * i]);
        sums[2 * i + 1] = fmaf(dy.at[j] * w[i].at[j], values.at[j], sums[2 * i + 1]);
      }
      StayRaw(&raw[i]);
      StayRaw(&raw_dy[i]);
    }
    PartSums<kGroup>(s, seat, &team_sum, sums);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const float r = InverseRms(sums[2 * i], s);
      const float along = -r * r * r * sums[2 * i + 1] * s.inverse_part;
      const Lane values = Widen(raw[i]), dy = Widen(raw_dy[i]);
      Lane dx = Widen(before[i]);
#pragma unroll
      for (int j = 0; j < kLane; ++j) {
        const float scaled = dy.at[j] * r;
        dx.at[j] += fmaf(scaled, w[i].at[j], values.at[j] * along);
        grad_w[i].at[j] = fmaf(scaled, values.at[j], grad_w[i].at[j]);
      }
      const int at = seat.at(s, i);
      if (at < here) StoreLane(grad_x + start + at, dx);
    }
  }
  if (shares != nullptr) StoreShare(s, seat, grad_w, reinterpret_cast<float*>(shared), shares);
}

Sizes SizesOf(const NormShape& shape, const NormGrid& grid) {
  const auto narrow = [](int64_t x) { return static_cast<int>(x); };
  return {grid.rows,
          shape.rows * shape.width,
          narrow(grid.width),
          narrow(grid.segment),
          narrow(shape.width / shape.heads),
          narrow(grid.copies),
          narrow(grid.team),
          narrow(grid.teams),
          shape.epsilon,
          static_cast<float>(shape.heads) / static_cast<float>(shape.width)};
}

dim3 BlocksOf(const NormGrid& grid) {
  return {static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.segments), 1};
}
unsigned ThreadsOf(const NormGrid& grid) {
  return static_cast<unsigned>(32 * grid.team * grid.teams);
}

}  // namespace

void RmsNorm(const Launch& launch, const NormShape& shape, const void* x, const float* weight,
             void* y) {
  if (shape.rows == 0) return;
  const NormGrid grid = NormGridOf(shape, launch.multiprocessors, kNormForwardBlocks);
  DispatchRows(shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = grid.group ? Forward<T, true> : Forward<T, false>;
    kernel<<<BlocksOf(grid), ThreadsOf(grid), 0, launch.stream>>>(
        SizesOf(shape, grid), static_cast<const T*>(x), weight, static_cast<T*>(y));
  });
  MNEMO_CUDA(cudaGetLastError());
}

void RmsNormBackward(const Launch& launch, const NormShape& shape, const void* x,
                     const float* weight, const void* grad_y, const void* addend, void* grad_x,
                     float* grad_weight) {
  const int64_t count = NormShares(shape, launch.multiprocessors);
  float* shares = nullptr;
  if (grad_weight != nullptr) {
    shares = static_cast<float*>(
        launch.scratch.Take(count * shape.width * static_cast<int64_t>(sizeof(float))));
  }
  if (shape.rows > 0) {
    const NormGrid grid = NormGridOf(shape, launch.multiprocessors, kNormBackwardBlocks);
    DispatchRows(shape.dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto kernel = grid.group ? Backward<T, true> : Backward<T, false>;
      kernel<<<BlocksOf(grid), ThreadsOf(grid), 0, launch.stream>>>(
          SizesOf(shape, grid), static_cast<const T*>(x), weight, static_cast<const T*>(grad_y),
          static_cast<const T*>(addend), static_cast<T*>(grad_x), shares);
    });
    MNEMO_CUDA(cudaGetLastError());
  }
  if (grad_weight != nullptr) SumPartials(launch, shares, count, shape.width, grad_weight);
}

}  // namespace mnemo::cuda
