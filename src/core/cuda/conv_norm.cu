#include "src/core/cuda/conv_norm.cuh"

// With c_t = sum_j w_j x_{t-3+j} and s = SiLU(c): y = s / sqrt(sum(s^2) + epsilon).
//
// A warp has 256 features of a run of tokens and goes through it in order, a thread with 8 of them
// and with the sums that their next tokens have so far; the norm is a sum over neighbouring lanes.
namespace mnemo::cuda {
namespace conv {
namespace {

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads, kConvForwardBlocks)
    Forward(Sizes s, const T* before, const T* x, const float* weight, T* y) {
  __shared__ RowRing<T, 4, kThreads> ring;
  const int warp = static_cast<int>(blockIdx.x) * kConvWarps + WarpOfBlock();
  const int run = warp / s.tiles;
  if (run >= s.batch * s.runs) return;
  const int feature = warp % s.tiles * kTile + static_cast<int>(threadIdx.x) % 32 * kLane;
  const int sequence = run / s.runs, first = run % s.runs * s.run;
  const int end = min(first + s.run, s.tokens);
  const bool here = feature < s.width;
  const int own = here ? end : 0;  // what the thread reads and writes ends here
  const int64_t offset = (int64_t{sequence} * s.tokens + first) * s.width + feature;  // of the run
  const Taps taps(weight, feature, here);
  const int lanes = kLanes > 0 ? kLanes : s.lanes;
  const T* next = x + offset;  // the row that is fetched next
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    ring.Fetch(k, next, first + k < own);
    CommitCopies();
    next += s.width;
  }
  Lane sums[kConvTaps] = {};
#pragma unroll
  for (int k = -kBefore; k < 0; ++k) {
    if (!here) continue;
    const T* row = first + k < 0 ? before + BeforeOffset(s, sequence, first + k) + feature
                                 : x + offset + k * s.width;
    AddRow(taps, LoadLane(row), k, sums);
  }
  T* to = y + offset;
  for (int t0 = first; t0 < end; t0 += 4) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int t = t0 + k;
      WaitForCopies<3>();
      AddRow(taps, Widen(ring.Take(k)), k, sums);
      ring.Fetch(k, next, t + 4 < own);
      CommitCopies();
      next += s.width;
      Lane out = sums[PlaceOf(k, 0)];
#pragma unroll
      for (int i = 0; i < kLane; ++i) out.at[i] *= QuickSigmoid(out.at[i]);
      if (lanes > 0) {
        const float r = rsqrtf(GroupSum(Dot(out, out), lanes) + s.epsilon);
#pragma unroll
        for (int i = 0; i < kLane; ++i) out.at[i] *= r;
      }
      if (t < own) StoreLane(to, out);
      to += s.width;
    }
  }
  WaitForCopies<0>();
}

}  // namespace
}  // namespace conv

void ConvSiluNorm(const Launch& launch, const ConvShape& shape, const void* before, const void* x,
                  const float* weight, void* y) {
  const ConvGrid grid = ConvForwardGrid(shape, launch.multiprocessors);
  if (grid.blocks == 0) return;
  const conv::Sizes sizes = conv::SizesOf(shape, grid);
  DispatchRows(shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    conv::DispatchLanes(sizes, [&](auto lanes) {
      conv::Forward<T, lanes.value>
          <<<static_cast<unsigned>(grid.blocks), conv::kThreads, 0, launch.stream>>>(
              sizes, static_cast<const T*>(before), static_cast<const T*>(x), weight,
              static_cast<T*>(y));
    });
  });
  MNEMO_CUDA(cudaGetLastError());
}

}  // namespace mnemo::cuda
