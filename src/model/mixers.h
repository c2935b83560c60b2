// The five mixers. Each maps normalised rows x [B, n, d] to rows of own heads [B, n, own_width],
// whose product with "output.weight" the block adds to the residual stream, and advances the carry;
// equations in docs/model.md. `carry` holds what came in, or the beginning of a sequence. Where the
// model is split (tensor_split.h), x has been through IntoParts.
#pragma once

#include "src/model/block.h"

namespace mnemo {

struct MixerCall {
  const ModelSpec& spec;
  const UnitParameters& p;
  const SliceContext& context;
  Carry& carry;
  BlockProbe* probe;  // may be null
};

Var LmmMixer(const MixerCall& call, const Var& x);
Var MacMixer(const MixerCall& call, const Var& x);
Var MagMixer(const MixerCall& call, const Var& x);
Var MalMixer(const MixerCall& call, const Var& x);
Var TransformerMixer(const MixerCall& call, const Var& x);

// (act(x W_g) o RMSNorm(y)): the gated output of LMM and MAL.
Var GatedRead(const MixerCall& call, const Var& x, const Var& y);

}  // namespace mnemo
