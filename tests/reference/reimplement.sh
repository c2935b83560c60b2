#!/usr/bin/env bash
# Trains a small model of every block for a few steps on the texts of docs/ and compares the losses
# of single tokens with those of reimplement.py.
#   reimplement.sh [MNEMO [PYTHON]]     a build of mnemo; a Python with numpy and h5py
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
mnemo="${1:-$root/build/mnemo}"
python="${2:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$mnemo" --log-level warning data prepare "$root/docs" --out "$work/shards" --tokenizer bytes \
  --holdout 0.3 >/dev/null
status=0
compare() { # NAME CONFIG FLAGS...
  local name="$1" config="$2"
  shift 2
  "$mnemo" --log-level warning train "$root/configs/$config.textproto" --run-dir "$work/$name" \
    --shards "$work/shards" --steps 10 --set train.optimizer.warmup_steps=0 "$@" \
    >"$work/train.log" 2>&1 || { cat "$work/train.log" && exit 1; }
  "$mnemo" eval --model "$work/$name/model" --shards "$work/shards" --slice 200 --length 1000 \
    --max-tokens 1500 --per-token-loss "$work/$name/loss.h5" >/dev/null
  # In several files: the page has to tell how to read them.
  "$mnemo" export --model "$work/$name/model" --out "$work/$name/cut" --max-shard-size 200KB >/dev/null
  [[ -s "$work/$name/cut/model.safetensors.index.json" ]] || { echo "$name is one file" && exit 1; }
  printf '%-28s' "$name"
  "$python" "$root/tests/reference/reimplement.py" --model "$work/$name/cut" \
    --losses "$work/$name/loss.h5" --shards "$work"/shards/eval-*.h5 || status=1
}
small=(--set train.sequence_length=256 --set train.slice=256 --set train.sequences=1)
for block in lmm mac mag mal transformer; do
  compare "$block" "tiny_$block" "${small[@]}"
done
compare lmm_ttt_mlp tiny_lmm "${small[@]}" --set model.memory.chunk= --set model.memory.preset=TTT_MLP
compare lmm_ttt_linear tiny_lmm "${small[@]}" --set model.memory.chunk= --set model.memory.preset=TTT_LINEAR
compare mac_towards_initial tiny_mac "${small[@]}" --set model.memory.forget_towards=INITIAL \
  --set model.memory.clamp=0.5 --set model.memory.biases=true --set model.memory.depth=3 \
  --set model.tied_embeddings=true
compare mag_linear tiny_mag "${small[@]}" --set model.memory.depth=1
exit "$status"
