#!/usr/bin/env bash
# Trains the cells of the recall study, one after the other, and prints the table so far.
#
#   launch/recall_study.sh [--out DIR] [--cells N] [--steps N] [--set PATH=VALUE]...
#
# A cell is a model, chunk, momentum, sequence length and seed; its result is DIR/CELL.json. Cells
# that are there already are not run again, so the study can be stopped and goes on where it was.
# --cells N runs at most N missing cells (default: all), --steps N shortens the training of each.
# The memories are those of configs/recall.textproto: depth 2, layer norm, residual.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out="$root/runs/recall_study"
cells=1000000
steps=3000
sets=()
while (($# > 0)); do
  case "$1" in
    --out) out="$2" && shift 2 ;;
    --cells) cells="$2" && shift 2 ;;
    --steps) steps="$2" && shift 2 ;;
    --set) sets+=(--set "$2") && shift 2 ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
done
mnemo="${MNEMO:-$root/build/mnemo}"
[[ -x "$mnemo" ]] || die "no $mnemo; build first (launch/test.sh or cmake --preset release), or name it in MNEMO"
mkdir -p "$out"

# run_cell NAME BLOCK CHUNK MOMENTUM LENGTH SEED
run_cell() {
  local attention=()
  if [[ "$2" == MAG ]]; then attention=(--set model.attention.window=32); fi
  "$mnemo" bench recall "$root/configs/recall.textproto" --json "$out/$1.json.part" \
    --length "$5" --pairs 16 --values 64 --steps "$steps" --stop-at 0.99 \
    --set "model.block=$2" --set "model.memory.chunk=$3" --set "model.memory.momentum=$4" \
    --set "train.seed=$6" "${attention[@]}" "${sets[@]}" </dev/null
  mv "$out/$1.json.part" "$out/$1.json"
}

for length in 256 1024; do
  for block in LMM MAG; do
    for chunk in 16 64; do
      for momentum in true false; do
        for seed in 1 2 3; do
          name="${block,,}_chunk${chunk}_momentum-${momentum}_t${length}_seed${seed}"
          if [[ -e "$out/$name.json" ]] || ((cells == 0)); then continue; fi
          say "$name"
          run_cell "$name" "$block" "$chunk" "$momentum" "$length" "$seed"
          cells=$((cells - 1))
        done
      done
    done
  done
done

python3 - "$out" <<'PYTHON'
import glob, json, os, sys
rows = []
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.json"))):
    last = json.load(open(path))["reports"][-1]
    rows.append((os.path.basename(path)[:-5], last["step"], last["accuracy"]))
print(f"{'cell':<48} {'steps':>6} {'accuracy':>9}")
for name, step, accuracy in rows:
    print(f"{name:<48} {step:>6} {accuracy:>9.3f}")
PYTHON
