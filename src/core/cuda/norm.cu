#include "src/core/cuda/layer_rows.cuh"

// y = x r w with r = 1 / sqrt(mean(x^2) + epsilon), so with g = grad_y w:
//   grad_x = r (g - x r^2 mean(g x)),   grad_w = sum over rows of grad_y x r.
//
// Narrow parts are held by a group of lanes of a warp, several to a warp; wide ones by a block. In
// both, a thread always sees the same features of a row, so that it adds up its share of grad_w in
// registers; the shares lie in scratch memory, [shares, width], and are then added up.
namespace mnemo::cuda {
namespace {

constexpr int kGroupThreads = kNormGroupThreads;
constexpr int kBlockThreads = kNormBlockThreads;  // at most

struct Sizes {
  int64_t rows, width, part;  // part: features that are normalised together
  float epsilon;
};

__device__ __forceinline__ float InverseRms(float squares, const Sizes& s) {
  return rsqrtf(squares / static_cast<float>(s.part) + s.epsilon);
}

struct Gradient {
  Lane x;       // of x
  Lane weight;  // this row's share
};

// mean: mean(g x) over the part.
__device__ __forceinline__ Gradient GradientOf(const Lane& x, const Lane& weight, const Lane& dy,
                                               float r, float mean) {
  Gradient gradient;
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    gradient.x.at[i] = r * (dy.at[i] * weight.at[i] - x.at[i] * r * r * mean);
    gradient.weight.at[i] = dy.at[i] * x.at[i] * r;
  }
  return gradient;
}

__device__ __forceinline__ Lane Times(const Lane& a, const Lane& b) {
  Lane out;
#pragma unroll
  for (int i = 0; i < kLane; ++i) out.at[i] = a.at[i] * b.at[i];
  return out;
}

__device__ __forceinline__ Lane Plus(const Lane& a, const Lane& b) {
  Lane out;
#pragma unroll
  for (int i = 0; i < kLane; ++i) out.at[i] = a.at[i] + b.at[i];
  return out;
}

// The grid has a multiple of width / 8 threads, so each stays with its features; whole warps are
// in or out of range together because groups divide rows.
template <typename T>
__global__ void __launch_bounds__(kGroupThreads)
    GroupForward(Sizes s, const T* x, const float* weight, T* y) {
  const int64_t vectors = s.rows * s.width / kLane, stride = gridDim.x * int64_t{kGroupThreads};
  const int lanes = static_cast<int>(s.part / kLane);
  const int64_t first = blockIdx.x * int64_t{kGroupThreads} + threadIdx.x;
  const Lane w = LoadLane(weight + first * kLane % s.width);
  for (int64_t warp = first - threadIdx.x % 32; warp < vectors; warp += stride) {
    const int64_t i = warp + threadIdx.x % 32;
    const bool here = i < vectors;
    Lane row = {};
    if (here) row = LoadLane(x + i * kLane);
    const float r = InverseRms(GroupSum(Dot(row, row), lanes), s);
#pragma unroll
    for (int j = 0; j < kLane; ++j) row.at[j] *= r * w.at[j];
    if (here) StoreLane(y + i * kLane, row);
  }
}

template <typename T>
__global__ void __launch_bounds__(kGroupThreads)
    GroupBackward(Sizes s, const T* x, const float* weight, const T* grad_y, const T* addend,
                  T* grad_x, float* shares) {
  const int64_t vectors = s.rows * s.width / kLane, stride = gridDim.x * int64_t{kGroupThreads};
  const int lanes = static_cast<int>(s.part / kLane);
  const int64_t first = blockIdx.x * int64_t{kGroupThreads} + threadIdx.x;
  const Lane w = LoadLane(weight + first * kLane % s.width);
  Lane sum = {};
  for (int64_t warp = first - threadIdx.x % 32; warp < vectors; warp += stride) {
    const int64_t i = warp + threadIdx.x % 32;
    const bool here = i < vectors;
    Lane row = {}, dy = {}, before = {};
    if (here) {
      row = LoadLane(x + i * kLane);
      dy = LoadLane(grad_y + i * kLane);
      if (addend != nullptr) before = LoadLane(addend + i * kLane);
    }
    const float r = InverseRms(GroupSum(Dot(row, row), lanes), s);
    const float mean = GroupSum(Dot(Times(dy, w), row), lanes) / static_cast<float>(s.part);
    const Gradient gradient = GradientOf(row, w, dy, r, mean);
    if (here) StoreLane(grad_x + i * kLane, Plus(before, gradient.x));
#pragma unroll
    for (int j = 0; j < kLane; ++j) sum.at[j] += gradient.weight.at[j];
  }
  if (shares != nullptr) StoreLane(shares + first * kLane, sum);
}

// Sum over a block of up to 32 warps, given to all threads.
__device__ __forceinline__ float BlockSum(float x, float* shared) {
  x = GroupSum(x, 32);
  __syncthreads();  // what shared held before has been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / 32;
  float sum = 0;
  for (int i = 0; i < warps; ++i) sum += shared[i];
  return sum;
}

// Of two at once.
__device__ __forceinline__ float2 BlockSum(float2 x, float2* shared) {
  x = {GroupSum(x.x, 32), GroupSum(x.y, 32)};
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / 32;
  float2 sum = {0, 0};
  for (int i = 0; i < warps; ++i) sum = {sum.x + shared[i].x, sum.y + shared[i].y};
  return sum;
}

// A block takes one part at a time: row p / heads, part p % heads. The grid is a multiple of the
// number of parts of a row.
template <typename T>
__global__ void __launch_bounds__(kBlockThreads)
    BlockForward(Sizes s, const T* x, const float* weight, T* y) {
  __shared__ float shared[32];
  const int64_t heads = s.width / s.part;
  const bool here = threadIdx.x * kLane < s.part;
  const int64_t feature = blockIdx.x % heads * s.part + threadIdx.x * kLane;
  Lane w = {};
  if (here) w = LoadLane(weight + feature);
  for (int64_t p = blockIdx.x; p < s.rows * heads; p += gridDim.x) {
    const int64_t at = p / heads * s.width + feature;
    Lane row = {};
    if (here) row = LoadLane(x + at);
    const float r = InverseRms(BlockSum(Dot(row, row), shared), s);
#pragma unroll
    for (int j = 0; j < kLane; ++j) row.at[j] *= r * w.at[j];
    if (here) StoreLane(y + at, row);
  }
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads)
    BlockBackward(Sizes s, const T* x, const float* weight, const T* grad_y, const T* addend,
                  T* grad_x, float* shares) {
  __shared__ float2 shared[32];
  const int64_t heads = s.width / s.part;
  const bool here = threadIdx.x * kLane < s.part;
  const int64_t feature = blockIdx.x % heads * s.part + threadIdx.x * kLane;
  Lane w = {}, sum = {};
  if (here) w = LoadLane(weight + feature);
  for (int64_t p = blockIdx.x; p < s.rows * heads; p += gridDim.x) {
    const int64_t at = p / heads * s.width + feature;
    Lane row = {}, dy = {}, before = {};
    if (here) {
      row = LoadLane(x + at);
      dy = LoadLane(grad_y + at);
      if (addend != nullptr) before = LoadLane(addend + at);
    }
    const float2 sums = BlockSum({Dot(row, row), Dot(Times(dy, w), row)}, shared);
    const float r = InverseRms(sums.x, s), mean = sums.y / static_cast<float>(s.part);
    const Gradient gradient = GradientOf(row, w, dy, r, mean);
    if (here) StoreLane(grad_x + at, Plus(before, gradient.x));
#pragma unroll
    for (int j = 0; j < kLane; ++j) sum.at[j] += gradient.weight.at[j];
  }
  if (shares != nullptr && here) {
    StoreLane(shares + blockIdx.x / heads * s.width + feature, sum);
  }
}

Sizes SizesOf(const NormShape& shape) {
  return {shape.rows, shape.width, shape.width / shape.heads, shape.epsilon};
}

}  // namespace

void RmsNorm(const Launch& launch, const NormShape& shape, const void* x, const float* weight,
             void* y) {
  if (shape.rows == 0) return;
  const NormGrid grid = NormGridOf(shape, launch.multiprocessors);
  DispatchRows(shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = grid.group ? GroupForward<T> : BlockForward<T>;
    kernel<<<static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.threads), 0,
             launch.stream>>>(SizesOf(shape), static_cast<const T*>(x), weight, static_cast<T*>(y));
  });
  MNEMO_CUDA(cudaGetLastError());
}

void RmsNormBackward(const Launch& launch, const NormShape& shape, const void* x,
                     const float* weight, const void* grad_y, const void* addend, void* grad_x,
                     float* grad_weight) {
  const NormGrid grid = NormGridOf(shape, launch.multiprocessors);
  float* shares = nullptr;
  if (grad_weight != nullptr) {
    shares = static_cast<float*>(
        launch.scratch.Take(grid.shares * shape.width * static_cast<int64_t>(sizeof(float))));
  }
  if (shape.rows > 0) {
    DispatchRows(shape.dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto kernel = grid.group ? GroupBackward<T> : BlockBackward<T>;
      kernel<<<static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.threads), 0,
               launch.stream>>>(SizesOf(shape), static_cast<const T*>(x), weight,
                                static_cast<const T*>(grad_y), static_cast<const T*>(addend),
                                static_cast<T*>(grad_x), shares);
    });
    MNEMO_CUDA(cudaGetLastError());
  }
  if (grad_weight != nullptr) {
    SumPartials(launch, shares, shape.rows > 0 ? grid.shares : 0, shape.width, grad_weight);
  }
}

}  // namespace mnemo::cuda
