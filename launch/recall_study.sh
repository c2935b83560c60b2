#!/usr/bin/env bash
# Trains the cells of the recall study and prints the table so far.
#
#   launch/recall_study.sh [--out DIR] [--cells N|all] [--jobs N] [--gpus N] [--seconds S]
#                          [--budget S] [--steps N] [--set PATH=VALUE]...
#
#   --out DIR    results: DIR/CELL.json (default: runs/recall_study). Cells that are there already
#                are not run again, so the study can be stopped and goes on where it was
#   --cells N    missing cells to train, at most (default: 1)
#   --jobs N     cells at once (default: 1), each a process; with more than one, its output goes to
#                DIR/CELL.log and the cores are divided among them
#   --gpus N     deal the jobs to so many GPUs in turn (default: as the environment has it)
#   --seconds S  ends a cell after S seconds of training, with the accuracy that it has reached
#   --budget S   starts no cell that, at its --seconds, might end later than S seconds from now
#   --steps N    optimizer steps of a cell, at most (default: 3000)
#   --set ..     for every cell, for instance execution.device=CUDA
#
# A cell is a model, chunk, momentum, sequence length and seed; it ends at an accuracy of 0.99. The
# memories are those of configs/recall.textproto: depth 2, layer norm, residual.
# tests/bench/recall/table.py makes one JSON and the table of the documentation of DIR.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

start_seconds=20 # of a cell's process before it trains, and to evaluate at the end
most_failures=2  # then the rest is not tried

out="$root/runs/recall_study"
cells=1 jobs=1 gpus=0 seconds=0 budget=0 steps=3000
sets=()

number() { [[ "$2" =~ ^[0-9]+$ ]] || die "$1 needs a whole number, not '$2'"; }

while (($# > 0)); do
  [[ "$1" == -h || "$1" == --help ]] && usage && exit 0
  (($# > 1)) || die "$1 needs a value; see --help"
  case "$1" in
    --out) out="$2" ;;
    --cells)
      cells="$2"
      if [[ "$cells" == all ]]; then cells=1000; fi
      number "$1" "$cells"
      ;;
    --jobs | --gpus | --seconds | --budget | --steps)
      number "$1" "$2"
      declare "${1#--}=$2"
      ;;
    --set) sets+=(--set "$2") ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift 2
done
mnemo="${MNEMO:-$root/build/mnemo}"
[[ -x "$mnemo" ]] || die "no $mnemo; build first (cmake --preset release), or name it in MNEMO"
((jobs > 0)) || die "--jobs is at least 1"
((budget == 0 || seconds > 0)) || die "--budget needs --seconds: else a cell may take any time"
mkdir -p "$out"
if ((jobs > 1)); then
  threads=$(($(nproc) / jobs))
  sets=(--set "execution.threads=$((threads > 0 ? threads : 1))" "${sets[@]}")
fi

# run_cell NAME BLOCK CHUNK MOMENTUM LENGTH SEED
run_cell() {
  local attention=() limit=()
  if [[ "$2" == MAG ]]; then attention=(--set model.attention.window=32); fi
  if ((seconds > 0)); then limit=(--seconds "$seconds"); fi
  "$mnemo" bench recall "$root/configs/recall.textproto" --json "$out/$1.json.part" \
    --length "$5" --pairs 16 --values 64 --steps "$steps" --stop-at 0.99 "${limit[@]}" \
    --set "model.block=$2" --set "model.memory.chunk=$3" --set "model.memory.momentum=$4" \
    --set "train.seed=$6" "${attention[@]}" "${sets[@]}" </dev/null &
  wait $! || return
  mv "$out/$1.json.part" "$out/$1.json"
}

list_cells() {
  local length block chunk momentum seed
  for length in 256 1024; do
    for block in LMM MAG; do
      for chunk in 16 64; do
        for momentum in true false; do
          for seed in 1 2 3; do
            echo "${block,,}_chunk${chunk}_momentum-${momentum}_t${length}_seed${seed}" \
              "$block" "$chunk" "$momentum" "$length" "$seed"
          done
        done
      done
    done
  done
}

# By the process: its cell, and its place among those that run at once.
declare -A cell_of=() slot_of=()
failed=()

# Waits for one of the processes.
reap() {
  local ended="" code=0
  wait -n -p ended "${!cell_of[@]}" || code=$?
  [[ -n "$ended" ]] || die "waiting for a cell failed"
  if ((code != 0)); then
    failed+=("${cell_of[$ended]}")
    if ((jobs > 1)); then tail -n 20 "$out/${cell_of[$ended]}.log" >&2; fi
  fi
  unset "cell_of[$ended]" "slot_of[$ended]"
}

# The first place that no process has.
free_slot() {
  local slot
  for ((slot = 0; slot < jobs; ++slot)); do
    if [[ " ${slot_of[*]} " != *" $slot "* ]]; then
      echo "$slot"
      return
    fi
  done
}

# start NAME ...: a cell in the background.
start() {
  local slot visible="${CUDA_VISIBLE_DEVICES:-}"
  slot="$(free_slot)"
  say "$1"
  if ((gpus > 0)); then visible=$((slot % gpus)); fi
  (
    trap 'kill $! 2>/dev/null; exit 143' TERM
    if [[ -n "$visible" ]]; then export CUDA_VISIBLE_DEVICES="$visible"; fi
    if ((jobs > 1)); then exec >"$out/$1.log" 2>&1; fi
    run_cell "$@"
  ) &
  cell_of[$!]="$1" slot_of[$!]="$slot"
}

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
while read -r -a cell; do
  if [[ -e "$out/${cell[0]}.json" ]]; then continue; fi
  if ((cells == 0 || ${#failed[@]} > most_failures)); then break; fi
  while ((${#cell_of[@]} >= jobs)); do reap; done
  if ((budget > 0 && SECONDS + seconds + start_seconds > budget)); then
    say "no time for another cell within $budget s" >&2
    break
  fi
  start "${cell[@]}"
  cells=$((cells - 1))
done < <(list_cells)
while ((${#cell_of[@]} > 0)); do reap; done

printf '%-48s %6s %9s %8s\n' cell steps accuracy seconds
there=0
for result in "$out"/*_seed?.json; do
  [[ -e "$result" ]] || continue
  there=$((there + 1))
  # The last report of the file.
  printf '%-48s' "$(basename "$result" .json)"
  for field in step accuracy seconds; do
    sed -n "s/.*\"$field\": *\([0-9.]*\).*/\1/p" "$result" | tail -n 1
  done | xargs printf ' %6s %9.3f %8.1f\n'
done
say "$there of $(list_cells | wc -l) cells"
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
