#!/usr/bin/env bash
# Fuzzes what reads files that others may have written: manifests, safetensors and their index,
# configurations, shards.
#
#   launch/fuzz.sh [--minutes N] [--out DIR] [--no-install] [TARGET]...
#
#   --minutes N    in all, shared by the targets (10)
#   --out DIR      found inputs, for the next time, and those that crash (default: runs/fuzz)
#   TARGET         manifest, safetensors, index, config, shard; all unless some are named
#
# libFuzzer under the address and undefined-behaviour sanitizers, in build-fuzz/, beginning with the
# inputs of tests/fuzz/corpus. An input may take 512 MiB at once and 10 s. Exit code 1 if one crashes:
# its file is named, and goes into the corpus with the fix, as a test.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

minutes=10 out="$root/runs/fuzz" install_options=(--with clang --with libclang-rt-14-dev)
targets=() pids=()

while (($# > 0)); do
  case "$1" in
    --minutes)
      [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || die "--minutes needs a number from 1 on"
      minutes="$2" && shift
      ;;
    --out) out="${2:?--out needs a directory}" && shift ;;
    --no-install) install_options+=("$1") ;;
    -h | --help) usage && exit 0 ;;
    -*) die "unknown option $1 (see --help)" ;;
    *)
      [[ -e "$root/tests/fuzz/fuzz_$1.cc" ]] || die "there is no target $1 (see --help)"
      targets+=("$1")
      ;;
  esac
  shift
done
if ((${#targets[@]} == 0)); then targets=(manifest safetensors index config shard); fi

"$root/launch/install.sh" "${install_options[@]}"
configure "$root/build-fuzz" -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMNEMO_FUZZ=ON "-DMNEMO_SANITIZE=address;undefined"
build "$root/build-fuzz" "${targets[@]/#/fuzz_}"

mkdir -p "$out"
seconds=$((60 * minutes * $(nproc) / ${#targets[@]}))
if ((seconds > 60 * minutes)); then seconds=$((60 * minutes)); fi
say "${#targets[@]} targets, $seconds s each, $(nproc) at a time; found inputs in $out"

# fuzz TARGET: its log is DIR/TARGET.log.
fuzz() {
  mkdir -p "$out/$1"
  LSAN_OPTIONS="suppressions=$root/tests/lsan.supp:print_suppressions=0" \
    "$root/build-fuzz/tests/fuzz/fuzz_$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -malloc_limit_mb=512 -print_final_stats=1 -artifact_prefix="$out/$1-" \
    "$out/$1" "$root/tests/fuzz/corpus/$1" >"$out/$1.log" 2>&1
}

bad=()
for target in "${targets[@]}"; do
  while (($(jobs -rp | wc -l) >= $(nproc))); do sleep 1; done
  fuzz "$target" &
  pids["${#pids[@]}"]=$!
done
for i in "${!targets[@]}"; do
  wait "${pids[$i]}" || bad+=("${targets[$i]}")
  log="$out/${targets[$i]}.log"
  say "${targets[$i]}: $(number_after 'stat::number_of_executed_units:' "$log") inputs tried," \
    "$(find "$out/${targets[$i]}" -type f | wc -l) found to be new"
done
for target in "${bad[@]}"; do
  grep -hE 'ERROR|SUMMARY|Test unit written' "$out/$target.log" >&2 || tail -n 5 "$out/$target.log" >&2
done
((${#bad[@]} == 0)) || die "failed: ${bad[*]}; see $out/TARGET.log"
say "no input crashed"
