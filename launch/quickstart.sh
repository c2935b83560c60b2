#!/usr/bin/env bash
# From a fresh Debian 12 to a trained model: installs packages, builds, prepares token shards from
# real text, trains a tiny MAC model, evaluates it on held-out text and shows the loss curve.
#
#   launch/quickstart.sh [--no-install] [PATH]...
#
#   PATH           files or directories with text; the C and C++ headers under /usr/include if
#                  none is named. A twentieth of the text is held out: of the files in directories,
#                  or, if only files are named, of their paragraphs
#   --no-install   fail if a package is missing instead of installing it
#
# Everything lands in runs/quickstart/ at the top of the source tree: shards/, metrics.jsonl,
# loss.svg, model/. A second call starts afresh. Takes about five minutes of two cores beyond
# downloading and building.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

run="$root/runs/quickstart"
mnemo="$root/build/mnemo"

prepare() {
  local documents=(--delimiter '') input
  for input in "$@"; do
    if [[ -d "$input" ]]; then documents=(); fi
  done
  say "preparing token shards from: $*"
  "$mnemo" data prepare "$@" "${documents[@]}" --out "$run/shards" --tokenizer bytes \
    --holdout 0.05 --overwrite || die "no token shards could be made; see above"
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
  prepare "${inputs[@]}"
  say "training a tiny MAC model"
  "$mnemo" train "$root/configs/quickstart_mac.textproto" --run-dir "$run" --overwrite \
    --shards "$run/shards" --eval-shards "$run/shards" >"$run/train.txt" ||
    die "training failed; see above"
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
  awk -v a="$first" -v b="$held_out" 'BEGIN { exit !(b < a) }' ||
    die "the loss did not fall: $first -> $held_out"
  say "ok loss $first -> $held_out"
}

main "$@"
