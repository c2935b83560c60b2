// Coefficients of a chunk from its gates: what one chunk does to the state.
#include "src/core/cuda/memory/memory_gates.cuh"

namespace mnemo::memory {
namespace {

// One warp a block, two tokens a lane. With (a, b, e) the run of the tokens after s:
// p_s = theta_s e and g_s = theta_s (a + b). Tokens past the end are runs that change nothing.
// `row_scale` as in Options.
__global__ void gate_coefficients_kernel(Segment segment, MemoryScanGates gates,
                                         const float* row_scale, float* out) {
  const int lane = threadIdx.x & 31;
  const int index = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (index >= segment.sequences * segment.chunks) return;
  const int head = index % segment.heads;  // neighbours read the same sectors
  const int chunk = index / segment.heads % segment.chunks;
  const int batch = index / segment.heads / segment.chunks;
  const int64_t first = segment.first(chunk);
  const int count = segment.count(chunk);
  Run run[2];
  float theta[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t token = first + 2 * lane + i;
    const int64_t at = (batch * segment.tokens + token) * segment.heads + head;
    const bool valid = 2 * lane + i < count;
    const float2 gate = valid ? eta_keep(gates, at) : make_float2(1, 1);
    run[i] = valid ? one_token(gate.x, gate.y) : kNoTokens;
    theta[i] = valid ? gates.theta[at] : 0;
  }
  const Run suffix = suffix_scan(join(run[0], run[1]));  // from this lane's tokens on
  Run after = shuffle_down(suffix, 1);
  if (lane == 31) after = kNoTokens;
  float* row =
      out + (int64_t{batch * segment.heads + head} * segment.chunks + chunk) * kCoefficients;
  const Run after0 = join(run[1], after);
  const float scale = row_scale_at(row_scale, count - 1);
  reinterpret_cast<float2*>(row)[lane] =
      make_float2(scale * theta[0] * (after0.a + after0.b), scale * theta[1] * (after.a + after.b));
  reinterpret_cast<float2*>(row + kTile)[lane] =
      make_float2(theta[0] * after0.e, theta[1] * after.e);
  if (lane == 0)
    *reinterpret_cast<float4*>(row + 128) = make_float4(suffix.a, suffix.b, suffix.e, 0);
}

}  // namespace

void launch_gate_coefficients(const CommonParams& p, float* coefficients, cudaStream_t stream) {
  const int blocks = p.segment.sequences * p.segment.chunks;
  launch_kernel(gate_coefficients_kernel, {(blocks + 7) / 8, 256}, stream, p.segment, p.gates,
                p.options.row_scale, coefficients);
}

}  // namespace mnemo::memory
