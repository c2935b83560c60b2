#!/usr/bin/env bash
# One training step, forward and backward, over one sequence of 2,097,152 tokens of real text on 4
# ranks, for a one-layer LMM and MAG (configs/long_*.textproto). Holds the memory of the fullest rank
# to the plan's figure (10 %) and the gradient of every position to 100 times the median.
#
#   launch/long_sequence.sh [--tokens N] [--out DIR] [--ranks N] [--set PATH=VALUE]... [PATH]...
#
#   PATH           files or directories with text, of at least N + 1 bytes together; the C and C++
#                  headers under /usr/include if none is named
#   --tokens N     a multiple of 64 instead of 2,097,152, for instance 131072
#   --out DIR      where shards and results go: DIR/lmm.json, DIR/mag.json; default:
#                  runs/long_sequence
#
# About 6 minutes of one core and 1.2 GB of memory. MNEMO names another binary than build/mnemo.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out="$root/runs/long_sequence"
tokens=2097152
ranks=4
sets=()
inputs=()
while (($# > 0)); do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    -*)
      [[ "$1" =~ ^--(tokens|out|ranks|set)$ ]] || die "unknown option $1; see --help"
      (($# > 1)) || die "$1 needs a value; see --help"
      case "$1" in
        --tokens) tokens="$2" ;;
        --out) out="$2" ;;
        --ranks) ranks="$2" ;;
        --set) sets+=(--set "$2") ;;
      esac
      shift 2
      ;;
    *)
      [[ -e "$1" ]] || die "there is no file or directory $1"
      inputs+=("$1")
      shift
      ;;
  esac
done
[[ "$tokens" =~ ^[1-9][0-9]*$ && "$ranks" =~ ^[1-9][0-9]*$ ]] ||
  die "--tokens and --ranks take a number"
if ((${#inputs[@]} == 0)); then inputs=(/usr/include); fi
mnemo="${MNEMO:-$root/build/mnemo}"
[[ -x "$mnemo" ]] || die "no $mnemo; build first (cmake --preset release), or name it in MNEMO"
command -v mpirun >/dev/null || die "there is no mpirun; launch/install.sh installs it"

mkdir -p "$out"
say "preparing token shards from: ${inputs[*]}"
"$mnemo" data prepare "${inputs[@]}" --out "$out/shards" --tokenizer bytes --overwrite \
  >"$out/prepare.txt" || die "no token shards could be made; see above"

# A slice is never longer than the sequence.
slice=$((tokens < 16384 ? tokens : 16384))
# More ranks than cores are fine; containers may forbid ranks to read each other's memory; one
# machine needs no remote shell.
options=(--oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none
  --mca plm isolated)
if ((EUID == 0)); then options+=(--allow-run-as-root); fi
for block in lmm mag; do
  say "$block: one step over $tokens tokens on $ranks ranks"
  mpirun "${options[@]}" -n "$ranks" "$mnemo" bench long "$root/configs/long_$block.textproto" \
    --shards "$out/shards" --json "$out/$block.json" --set "train.sequence_length=$tokens" \
    --set "train.slice=$slice" "${sets[@]}" || die "$block failed; see above"
done
say "ok $out/lmm.json $out/mag.json"
