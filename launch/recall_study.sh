#!/usr/bin/env bash
# Trains the cells of the recall study, one after the other, and prints the table so far.
#
#   launch/recall_study.sh [--out DIR] [--cells N] [--steps N] [--set PATH=VALUE]...
#
# A cell is a model, chunk, momentum, sequence length and seed; its result is DIR/CELL.json. Cells
# that are there already are not run again, so the study can be stopped and goes on where it was.
# --cells N runs at most N missing cells (default: one), --steps N shortens the training of each.
# The memories are those of configs/recall.textproto: depth 2, layer norm, residual.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out="$root/runs/recall_study"
cells=1
steps=3000
sets=()
while (($# > 0)); do
  [[ "$1" == -h || "$1" == --help ]] && usage && exit 0
  (($# > 1)) || die "$1 needs a value; see --help"
  case "$1" in
    --out) out="$2" && shift 2 ;;
    --cells) cells="$2" && shift 2 ;;
    --steps) steps="$2" && shift 2 ;;
    --set) sets+=(--set "$2") && shift 2 ;;
    *) die "unknown option $1; see --help" ;;
  esac
done
mnemo="${MNEMO:-$root/build/mnemo}"
[[ -x "$mnemo" ]] || die "no $mnemo; build first (cmake --preset release), or name it in MNEMO"
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

printf '%-48s %6s %9s\n' cell steps accuracy
for result in "$out"/*.json; do
  [[ -e "$result" ]] || continue
  # The last report of the file.
  step="$(sed -n 's/.*"step": *\([0-9]*\).*/\1/p' "$result" | tail -n 1)"
  accuracy="$(sed -n 's/.*"accuracy": *\([0-9.]*\).*/\1/p' "$result" | tail -n 1)"
  printf '%-48s %6s %9.3f\n' "$(basename "$result" .json)" "$step" "$accuracy"
done
