#include "src/core/cuda/conv_norm.cuh"

// With c_t = sum_j w_j x_{t-3+j}, s = SiLU(c), r = 1 / sqrt(sum(s^2) + epsilon), y = s r:
//   grad_s = r (grad_y - y sum(grad_y y)),   grad_c = grad_s SiLU'(c),
//   grad_x_u = sum_j w_j grad_c_{u+3-j},     grad_w_j = sum_t grad_c_t x_{t-3+j}.
//
// A warp has 256 features of a run of rows and goes through it in order. Rows [first, end) need
// grad_c of the tokens up to end + 2, which the run after computes too. The first run begins with
// the rows before x.
namespace mnemo::cuda {
namespace conv {
namespace {

template <typename T>
struct Rings {
  RowRing<T, 8, kThreads> x;  // a row is read a second time three tokens later
  RowRing<T, 4, kThreads> grad_y;
};

// grad_c of one token; zeros where grad_y is.
template <typename T, int kLanes>
__device__ __forceinline__ Lane GradientOfSum(const Lane& c, Raw<T> grad_y, const Sizes& s) {
  Lane silu, gradient;  // gradient: first SiLU'(c)
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const float sigmoid = QuickSigmoid(c.at[i]);
    silu.at[i] = c.at[i] * sigmoid;
    gradient.at[i] = fmaf(sigmoid, 1 - silu.at[i], silu.at[i]);
  }
  const int lanes = kLanes > 0 ? kLanes : s.lanes;
  float r = 1, along = 0;
  if (lanes > 0) {
    float sums[] = {Dot(silu, silu), Dot(Widen(grad_y), silu)};
    StayRaw(&grad_y);
    GroupSums(sums, lanes);
    r = rsqrtf(sums[0] + s.epsilon);
    along = -sums[1] * r * r * r;
  }
  const Lane dy = Widen(grad_y);
#pragma unroll
  for (int i = 0; i < kLane; ++i) gradient.at[i] *= fmaf(silu.at[i], along, dy.at[i] * r);
  return gradient;
}

// What row x, three rows before the k-th of four tokens, and grad_c of the tokens that saw it give:
// its gradient; and adds to the weight's.
__device__ __forceinline__ Lane FinishRow(const Taps& taps, const Lane& x, int k,
                                          const Lane (&grad_c)[kConvTaps],
                                          Lane (&grad_w)[kConvTaps]) {
  Lane grad_x = {};
#pragma unroll
  for (int j = 0; j < kConvTaps; ++j) {
    const Lane& of = grad_c[PlaceOf(k, j)];
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      grad_x.at[i] = fmaf(taps.w[j].at[i], of.at[i], grad_x.at[i]);
      grad_w[j].at[i] = fmaf(x.at[i], of.at[i], grad_w[j].at[i]);
    }
  }
  return grad_x;
}

// Rows of a sequence, and of its gradients.
template <typename T>
struct Rows {
  const T *before, *x, *grad_y;
  T *grad_before, *grad_x;
};

// The run of a sequence that begins with row `first`; all lanes of a warp walk, those that are not
// `here` without reading or writing. Tokens go by fours from first - 1 on: those after the first
// four finish the run's rows, and no others.
template <typename T, int kLanes>
__device__ __forceinline__ void Walk(const Sizes& s, const Rows<T>& at, int sequence, int first,
                                     int feature, const Taps& taps, Rings<T>* rings,
                                     Lane (&grad_w)[kConvTaps]) {
  const bool here = feature < s.width;
  const int begin = first - 1, end = min(first + s.run, s.tokens);
  const int read_end = min(first + s.run + kConvOverlap, s.tokens);
  const auto before = [&](int u) { return BeforeOffset(s, sequence, u) + feature; };
  // Of the row that is fetched next; all other places are told from it, to save registers.
  int64_t next = (int64_t{sequence} * s.tokens + begin) * s.width + feature;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int t = begin + k;
    rings->x.Fetch(k, t < 0 ? at.before + before(t) : at.x + next,
                   here && t >= -kBefore && t < read_end);
    rings->grad_y.Fetch(k, at.grad_y + next, here && t >= 0 && t < read_end);
    CommitCopies();
    next += s.width;
  }
  Lane sums[kConvTaps] = {}, grad_c[kConvTaps] = {};
#pragma unroll
  for (int k = -2; k < 0; ++k) {
    const int u = begin + k;
    if (!here || u < -kBefore) continue;
    AddRow(taps, LoadLane(u < 0 ? at.before + before(u) : at.x + next + (k - 4) * s.width), k,
           sums);
  }
  int half = 0;  // of the slots for x: the tokens at hand; the other one: those before and after
  for (int t0 = begin; t0 < end + kBefore; t0 += 4) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int t = t0 + k, u = t - kBefore;
      WaitForCopies<3>();
      AddRow(taps, Widen(rings->x.Take(half + k)), k, sums);
      const Raw<T> dy = rings->grad_y.Take(k);
      rings->x.Fetch((half ^ 4) + k, at.x + next, here && t + 4 < read_end);
      rings->grad_y.Fetch(k, at.grad_y + next, here && t + 4 < read_end);
      CommitCopies();
      grad_c[PlaceOf(k, 0)] = GradientOfSum<T, kLanes>(sums[PlaceOf(k, 0)], dy, s);
      const int slot = k < kBefore ? (half ^ 4) + k + 1 : half;
      const Lane dx = FinishRow(taps, Widen(rings->x.Take(slot)), k, grad_c, grad_w);
      if (u >= first && u < end && here) {
        StoreLane(u < 0 ? at.grad_before + before(u) : at.grad_x + next - 7 * s.width, dx);
      }
      next += s.width;
    }
    half ^= 4;
    if (t0 == begin) {
#pragma unroll
      for (Lane& of_tap : grad_w) of_tap = {};  // that was for the run before
    }
  }
  WaitForCopies<0>();
}

// A block's warps have different runs of the same features; it leaves a share [width, taps] of the
// weight's gradient, all blocks of those runs together.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? kConvBackwardBlocks : 2)
    Backward(Sizes s, Rows<T> at, const float* weight, float4* shares) {
  __shared__ union {
    Rings<T> rings;
    float4 sums[kConvWarps][kLane][32];
  } shared;
  const int warp = WarpOfBlock(), lane = static_cast<int>(threadIdx.x) % 32;
  const int tile = static_cast<int>(blockIdx.x) % s.tiles;
  const int share = static_cast<int>(blockIdx.x) / s.tiles;
  const int run = share * kConvWarps + warp, feature = tile * kTile + lane * kLane;
  Lane grad_w[kConvTaps] = {};
  if (run < s.batch * s.runs) {
    Walk<T, kLanes>(s, at, run / s.runs, run % s.runs * s.run - kBefore, feature,
                    Taps(weight, feature, feature < s.width), &shared.rings, grad_w);
  }
  __syncthreads();  // the rings are no longer used
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    shared.sums[warp][i][lane] = {grad_w[0].at[i], grad_w[1].at[i], grad_w[2].at[i],
                                  grad_w[3].at[i]};
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTile && tile * kTile + i < s.width;
       i += kThreads) {
    float4 sum = {};
#pragma unroll
    for (int w = 0; w < kConvWarps; ++w) {
      const float4 of = shared.sums[w][i % kLane][i / kLane];
      sum = {sum.x + of.x, sum.y + of.y, sum.z + of.z, sum.w + of.w};
    }
    shares[int64_t{share} * s.width + tile * kTile + i] = sum;
  }
}

}  // namespace
}  // namespace conv

void ConvSiluNormBackward(const Launch& launch, const ConvShape& shape, const void* before,
                          const void* x, const float* weight, const void* grad_y, void* grad_before,
                          void* grad_x, float* grad_weight) {
  const ConvGrid grid = ConvBackwardGrid(shape, launch.multiprocessors);
  const int64_t weights = shape.width * kConvTaps;
  if (grid.blocks == 0) return SumPartials(launch, nullptr, 0, weights, grad_weight);
  auto* shares = static_cast<float4*>(
      launch.scratch.Take(grid.shares * weights * static_cast<int64_t>(sizeof(float))));
  const conv::Sizes sizes = conv::SizesOf(shape, grid);
  DispatchRows(shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    const conv::Rows<T> rows = {static_cast<const T*>(before), static_cast<const T*>(x),
                                static_cast<const T*>(grad_y), static_cast<T*>(grad_before),
                                static_cast<T*>(grad_x)};
    conv::DispatchLanes(sizes, [&](auto lanes) {
      conv::Backward<T, lanes.value>
          <<<static_cast<unsigned>(grid.blocks), conv::kThreads, 0, launch.stream>>>(
              sizes, rows, weight, shares);
    });
  });
  MNEMO_CUDA(cudaGetLastError());
  SumPartials(launch, reinterpret_cast<const float*>(shares), grid.shares, weights, grad_weight);
}

}  // namespace mnemo::cuda
