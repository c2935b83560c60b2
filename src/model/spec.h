// A model's shape, as the code uses it: what config.proto's ModelConfig says once its defaults are
// filled in and checked.
#pragma once

#include <cstdint>

#include "mnemo/v1/config.pb.h"
#include "src/core/fused/memory_rule.h"

namespace mnemo {

class Peers;

// Tensor parallelism: `ranks` ranks hold a part each of a model (tensor_split.h).
struct TensorSplit {
  int ranks = 1;
  int rank = 0;            // this one's place
  Peers* peers = nullptr;  // all of them; null if there is one. Outlives whatever uses it

  // This rank's part of `size` things: Count(size) of them from Begin(size). Where they cannot be
  // dealt out evenly the first ranks have one more.
  int64_t Begin(int64_t size) const { return BeginOf(rank, size); }
  int64_t Count(int64_t size) const { return BeginOf(rank + 1, size) - BeginOf(rank, size); }

 private:
  int64_t BeginOf(int of, int64_t size) const {
    const int64_t more = size % ranks;
    return of * (size / ranks) + (of < more ? of : more);
  }
};

enum class BlockKind { kLmm, kMac, kMag, kMal, kTransformer };

struct GateSpec {
  double theta_max, eta_max, alpha_max;
  bool average_surprise;  // theta carries the factor (1 - eta)
  double theta_bias, eta_bias;
  double alpha_first, alpha_last;  // initial alpha of the first and last head
};

struct ModelSpec {
  BlockKind block;
  int layers;
  int64_t width;       // d
  int64_t heads;       // H
  int64_t vocabulary;  // V
  int64_t mlp_hidden;
  bool tied_embeddings;
  double epsilon;

  // The memory: LMM, MAC, MAG, MAL.
  MemoryRule rule;
  GateSpec gates;
  bool unit_initial_weights;
  bool normalize_qk;
  bool shared_qk_projection;
  MemoryActivation output_gate;

  // Attention: MAC, MAG, MAL, TRANSFORMER.
  int64_t window;             // 0: full
  int64_t segment;            // MAC
  int64_t persistent_tokens;  // 0: none
  double rope_base;

  // Which part of it this rank holds. All numbers above are of the whole model.
  TensorSplit split;

  int64_t own_heads() const { return split.Count(heads); }
  int64_t own_width() const { return split.Count(width); }  // columns of its heads

  int64_t head_dim() const { return width / heads; }
  bool has_memory() const { return block != BlockKind::kTransformer; }
  bool has_attention() const { return block != BlockKind::kLmm; }
  bool has_window() const { return has_attention() && block != BlockKind::kMac; }
  // Whether the carry grows with the sequence: full attention.
  bool full_attention() const { return has_window() && window == 0; }
  // Slices and documents begin at multiples of this many tokens.
  int64_t alignment() const {
    return block == BlockKind::kMac ? segment : has_memory() ? rule.chunk : 1;
  }
};

// `config` has passed FillDefaults and CheckConfig (config_defaults.h, config_check.h); its
// vocabulary is set.
ModelSpec MakeSpec(const v1::ModelConfig& config);

}  // namespace mnemo
