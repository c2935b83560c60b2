#!/usr/bin/env bash
# From a fresh Debian 12 to a trained model: installs packages, builds, prepares token shards from
# real text, trains a tiny MAC model on four MPI ranks under a coordinator, stopped half way with a
# checkpoint and resumed, evaluates it on held-out text and shows the loss curve.
#
#   launch/quickstart.sh [--no-install] [PATH]...
#
#   PATH           files or directories with text; the C and C++ headers under /usr/include if
#                  none is named. A twentieth of the text is held out: of the files in directories,
#                  or, if only files are named, of their paragraphs
#   --no-install   fail if a package is missing instead of installing it
#
# Everything lands in runs/quickstart/ at the top of the source tree: shards/, metrics.jsonl,
# checkpoints/, loss.svg, model/. A second call starts afresh. Takes two to five minutes of two cores
# beyond downloading and building.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

run="$root/runs/quickstart"
mnemo="$root/build/mnemo"
config="$root/configs/quickstart_mac.textproto"
job=0

prepare() {
  local documents=(--delimiter '') input
  for input in "$@"; do
    if [[ -d "$input" ]]; then documents=(); fi
  done
  say "preparing token shards from: $*"
  "$mnemo" data prepare "$@" "${documents[@]}" --out "$run/shards" --tokenizer bytes \
    --holdout 0.05 --overwrite || die "no token shards could be made; see above"
}

# A job of 4 ranks: 2 replicas (dp), each with the slices of its sequences dealt to 2 ranks (sp).
start_job() {
  "$root/launch/local.sh" "$config" -n 4 --run-dir "$run" --shards "$run/shards" \
    --eval-shards "$run/shards" "$@" >"$run/train.txt" &
  job=$!
}

await_job() {
  local status=0
  wait "$job" || status=$?
  job=0
  ((status == 0)) || die "training failed; see above"
}

step_taken() {
  "$mnemo" status "$run" --json 2>/dev/null | sed -n 's/.*"step": *"*\([0-9]*\).*/\1/p' | head -n 1
}

# Watches the job until it is half way, asks how it is, and has it save and end.
stop_half_way() {
  local half="$1" step
  until step="$(step_taken)" && ((${step:-0} >= half)); do
    kill -0 "$job" 2>/dev/null || die "training ended before it was half way; see above"
    sleep 1
  done
  say "half way; mnemo status $run"
  "$mnemo" status "$run"
  say "mnemo stop $run"
  "$mnemo" stop "$run"
}

main() {
  local install_options=() inputs=()
  while (($# > 0)); do
    case "$1" in
      --no-install) install_options+=("$1") ;;
      -h | --help) usage && exit 0 ;;
      -*) die "unknown option $1 (see --help)" ;;
      *)
        [[ -e "$1" ]] || die "there is no file or directory $1"
        inputs+=("$(realpath "$1")")
        ;;
    esac
    shift
  done
  if ((${#inputs[@]} == 0)); then inputs=(/usr/include); fi

  "$root/launch/install.sh" "${install_options[@]}"
  say "building in $root/build"
  configure "$root/build" -DCMAKE_BUILD_TYPE=Release || die "nothing was built"
  build "$root/build" mnemo || die "the build failed; see above"

  SECONDS=0
  mkdir -p "$run"
  rm -f "$run/coordinator.json" # of one that was killed; ranks that still train hold the run's lock
  prepare "${inputs[@]}"
  local steps
  steps="$(number_after 'steps:' "$config")"
  trap '((job == 0)) || kill -TERM "$job" 2>/dev/null || true' EXIT
  say "training a tiny MAC model on 4 ranks"
  start_job --overwrite
  stop_half_way "$((steps / 2))"
  await_job
  "$mnemo" ckpt ls "$run/checkpoints"
  say "the same command goes on from there"
  start_job
  await_job
  say "evaluating on held-out text"
  "$mnemo" eval --model "$run/model" --shards "$run/shards" --max-tokens 200000 |
    tee "$run/eval.txt" || die "the evaluation failed; see above"

  local first held_out
  first="$(number_after '"loss":' "$run/metrics.jsonl")"
  held_out="$(number_after loss "$run/eval.txt")"
  cat "$run/train.txt"
  say "the same curve as a picture: $run/loss.svg"
  say "took $SECONDS s after building"
  [[ -n "$first" && -n "$held_out" ]] || die "no loss in $run/metrics.jsonl or $run/eval.txt"
  # Other locales have a decimal comma.
  LC_ALL=C awk -v a="$first" -v b="$held_out" 'BEGIN { exit !(b < a) }' ||
    die "the loss did not fall: $first -> $held_out"
  say "ok loss $(LC_ALL=C printf '%.4f -> %.4f' "$first" "$held_out")"
}

main "$@"
