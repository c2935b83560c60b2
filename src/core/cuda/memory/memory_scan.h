// The neural memory's scan on a Hopper GPU: forward from carry to carry, and its exact backward.
//
// For each batch entry and head a network, f_W(x) = [x +] LN(W2 act(W1 x)) or [x +] [LN](W1 x), is
// trained on the tokens' keys and values while the tokens' queries are read from it:
//
//   u_t = grad_W 1/2 |f_W(k_t) - v_t|^2          at the state that began the token's chunk
//   S_t = eta_t S_{t-1} - theta_t u_t
//   W_t = (1 - alpha_t) W_{t-1} [+ alpha_t W_0] + S_t
//   y_t = f_{W_t}(q_t)
//
// Options, off in most rules: forgetting towards the first weights W_0 (the bracket); the clamp,
// u_t *= 1 / sqrt(1 + (|u_t| / clamp)^2); resets, which put the state to W_0, S = 0 before chunks;
// row scale, by which token t of its chunk, counted from 1, and the next chunk if t is the last
// one, see r_t = max(0, 1 / t + row_scale_t) times what the chunk has written so far.
//
// Plain C++: no CUDA header is needed to include this. All pointers are device pointers. Nothing
// here allocates memory, synchronises or keeps state; calls only enqueue work on `stream`, so they
// may come from any thread, and buffers must live until the stream has passed them. Side streams
// are optional: work that may run beside the rest goes there, begins after what `stream` held at
// the call, and is done before what `stream` gets after it. They help where batch * heads is
// small, and best where forward's, and backward's second, have a lower priority than `stream`.
// Two runs on the same inputs give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace mnemo {

struct MemoryScanShape {
  int64_t batch = 0;
  int64_t tokens = 0;  // any number; the last chunk may be shorter
  int64_t heads = 0;
  int head_dim = 64;
  int hidden = 256;  // of depth 2
  int depth = 2;
  int chunk = 64;
  bool norm = true;      // layer norm at the network's end
  bool residual = true;  // x + ...
  bool gelu = false;     // tanh form, instead of SiLU
  float epsilon = 1e-6f;
  bool towards_initial = false;  // forget towards W_0; needs alpha
  float clamp = 0;               // > 0: the clamp of the inner gradient
  bool resets = false;           // some chunks begin at W_0
  bool row_scale = false;
  bool biases = false;  // W1 x + c1, W2 h + c2

  // Without options, one of which is depth 2 without a norm.
  bool plain() const {
    return (norm || depth == 1) && !towards_initial && !(clamp > 0) && !resets && !row_scale &&
           !biases;
  }
};

// W_0, or its gradient, fp32, dense: w1 [heads, hidden, head_dim], w2 [heads, head_dim, hidden];
// depth 1: w1 [heads, head_dim, head_dim]. Null where the shape is plain; otherwise needed,
// whatever the option.
struct MemoryScanInitial {
  float* w1 = nullptr;
  float* w2 = nullptr;
  float* c1 = nullptr;  // with biases: [heads, hidden], at depth 1 [heads, head_dim]
  float* c2 = nullptr;  // the same: [heads, head_dim], null at depth 1
};

// bf16 rows [batch, tokens, heads, head_dim]: the last two dimensions dense, strides in elements
// and multiples of 8, data 16-byte aligned.
struct MemoryScanRows {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t token_stride = 0;
};

// fp32, dense: w1, s1 [batch, heads, hidden, head_dim]; w2, s2 [batch, heads, head_dim, hidden].
// Depth 1: w1, s1 [batch, heads, head_dim, head_dim], the others null. Without momentum s1 and s2
// may be null: zero coming in, not written going out.
struct MemoryScanCarry {
  float* w1 = nullptr;
  float* w2 = nullptr;
  float* s1 = nullptr;
  float* s2 = nullptr;
  // With biases: theirs and their momenta, c1 and t1 [batch, heads, hidden], c2 and t2 [batch,
  // heads, head_dim]; depth 1: c1 and t1 [batch, heads, head_dim].
  float* c1 = nullptr;
  float* c2 = nullptr;
  float* t1 = nullptr;
  float* t2 = nullptr;
};

// fp32, dense [batch, tokens, heads]. Without momentum eta is null and taken as 0, without
// forgetting alpha; their gradients are then null too.
struct MemoryScanGates {
  float* theta = nullptr;
  float* eta = nullptr;
  float* alpha = nullptr;
};

struct MemoryScanForwardArgs {
  MemoryScanShape shape;
  MemoryScanRows q, k, v;
  MemoryScanGates gates;
  const float* norm_gain = nullptr;  // [heads, head_dim], 16-byte aligned; unused without norm
  const float* norm_bias = nullptr;  // the same
  MemoryScanInitial initial;
  const float* resets = nullptr;     // [batch, chunks], not 0 where a chunk begins at W_0; or null
  const float* row_scale = nullptr;  // [chunk], the learned part of r; null without it
  MemoryScanCarry carry_in;
  MemoryScanRows y;             // out
  MemoryScanCarry carry_out;    // out; may not alias carry_in
  float* clamp_hits = nullptr;  // out [1]: how many tokens had |u| > clamp; or null
  void* workspace = nullptr;    // MemoryScanForwardWorkspace bytes, 1024-byte aligned
  // At most one of the two; neither when no backward follows. A checkpoint is a state now and then,
  // from which backward computes all else again; what is retained is every chunk's state and, at
  // depth 2 but for plain rules in chunks of sixteen, all that backward needs of the reads.
  float* checkpoints = nullptr;  // out, MemoryScanCheckpointBytes
  void* retained = nullptr;      // out, MemoryScanRetainedBytes, 1024-byte aligned
  CUstream_st* side_stream = nullptr;
};

struct MemoryScanBackwardArgs {
  MemoryScanShape shape;
  MemoryScanRows q, k, v;
  MemoryScanGates gates;
  const float* norm_gain = nullptr;
  const float* norm_bias = nullptr;
  MemoryScanInitial initial;
  const float* resets = nullptr;
  const float* row_scale = nullptr;
  const float* checkpoints = nullptr;  // as the forward pass left them, or:
  void* retained = nullptr;            // the same; used up, so that there is one backward pass
  MemoryScanRows dy;
  MemoryScanCarry dcarry_out;   // adjoint of carry_out
  MemoryScanRows dq, dk, dv;    // out
  MemoryScanGates dgates;       // out
  float* dnorm_gain = nullptr;  // out [heads, head_dim]
  float* dnorm_bias = nullptr;  // out [heads, head_dim]
  MemoryScanInitial dinitial;   // out, where the shape is not plain
  float* drow_scale = nullptr;  // out [chunk], with row scale
  MemoryScanCarry dcarry_in;    // out; may not alias dcarry_out
  void* workspace = nullptr;    // MemoryScanBackwardWorkspace bytes, 1024-byte aligned
  CUstream_st* side_streams[2] = {nullptr, nullptr};  // both or neither
};

// Whether there are kernels for the shape. Everything below requires that there are.
bool MemoryScanSupports(const MemoryScanShape& shape);

// `retain`: with what the forward pass retains, which saves most of the workspace.
size_t MemoryScanForwardWorkspace(const MemoryScanShape& shape, bool retain);
size_t MemoryScanBackwardWorkspace(const MemoryScanShape& shape, bool retain);
size_t MemoryScanCheckpointBytes(const MemoryScanShape& shape);
size_t MemoryScanRetainedBytes(const MemoryScanShape& shape);

// Null on success, else the CUDA runtime's message; outputs are then undefined.
const char* MemoryScanForward(const MemoryScanForwardArgs& args, CUstream_st* stream);
const char* MemoryScanBackward(const MemoryScanBackwardArgs& args, CUstream_st* stream);

}  // namespace mnemo
