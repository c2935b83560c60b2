#!/usr/bin/env bash
# Checks this machine's GPU with what was built for it, stage by stage.
#
#   launch/gpu_check.sh [--out DIR] [--only STAGE[,STAGE]..]
#
#   --out DIR     results: STAGE.json and logs (default: runs/gpu_check). A stage whose JSON is there
#                 is not run again; STAGE.failed.json says what was wrong and does not count
#   --only LIST   these stages; without it all of them, in this order:
#                   ops        every op, kernel, product and fused kernel against the CPU
#                   sanitizer  a part of these under compute-sanitizer's memcheck
#                   race       the kernels that share memory of a block under its racecheck
#
# Each stage takes less than 8 minutes. Runs in a bundle (launch/bundle.sh) as `./run.sh
# launch/gpu_check.sh`, or in the source tree on what is in build-cuda.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

stages=(ops sanitizer race)
stage_seconds=470

# program NAME: where it is.
program() {
  local place
  for place in "$root/bin" "$root/build-cuda" "$root/build-cuda/tests/core/cuda" \
    "$root/build-cuda/tests/bench/memory_scan"; do
    if [[ -x "$place/$1" ]]; then
      echo "$place/$1"
      return
    fi
  done
  die "there is no program $1 in $root; it is part of a build with MNEMO_CUDA=ON"
}

need() {
  local name
  for name in "$@"; do program "$name" >/dev/null; done
}

# run NAME COMMAND...: a part of the stage, within the stage's time, with a log and an entry in the
# stage's JSON. Goes on after a failure, so that one call shows all of them.
run() {
  local name="$1" log="$out/$stage.$1.log" begin=$SECONDS code=0 left
  shift
  left=$((stage_seconds - (SECONDS - stage_begin)))
  if ((left < 1)); then left=1; fi
  timeout "$left" "$@" >"$log" 2>&1 || code=$?
  if ((code == 124)); then echo "stopped after $left s" >>"$log"; fi
  if ((code != 0)); then
    failed+=("$name")
    tail -n 40 "$log"
  fi
  parts+=("$(printf '{"name": "%s", "exit_code": %d, "seconds": %d, "tests": %d, "failed": %d}' \
    "$name" "$code" $((SECONDS - begin)) "$(grep -c '^\[       OK \]' "$log")" \
    "$(grep -c '^\[  FAILED  \].*ms)$' "$log")")")
  say "$stage: $name: exit code $code, $((SECONDS - begin)) s"
}

programs=(cuda_ops_test cuda_waist_test cuda_fused_kernels_test)

stage_ops() {
  need "${programs[@]}"
  run ops "$(program cuda_ops_test)"
  run waist "$(program cuda_waist_test)"
  run fused_kernels "$(program cuda_fused_kernels_test)"
}

sanitizer="$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)"

need_sanitizer() {
  need "${programs[@]}"
  [[ -x "$sanitizer" ]] || die "compute-sanitizer is not here; it is part of the CUDA toolkit"
}

# sanitized TOOL NAME FILTER PROGRAM
sanitized() {
  # Every kernel that is loaded is instrumented: only those that are used, then.
  run "$2" env CUDA_MODULE_LOADING=LAZY "$sanitizer" --tool "$1" --error-exitcode 1 \
    --print-limit 20 "$(program "$4")" --gtest_filter="$3"
}

stage_sanitizer() {
  need_sanitizer
  local waist='CudaElementwise.NarrowAddedToWide:CudaElementwise.Fills*:CudaGemm.OneFactor*'
  waist+=':CudaGemm.Sums*:CudaReduce.*Nothing*:CudaSoftmax.Rows*:CudaDevice.AdamW*'
  sanitized memcheck ops 'All/CudaOps.*:CudaCompositions.NormsGatesAndConvolutions' cuda_ops_test
  sanitized memcheck waist "$waist" cuda_waist_test
  sanitized memcheck fused_kernels '*' cuda_fused_kernels_test
}

stage_race() {
  need_sanitizer
  sanitized racecheck ops 'All/CudaOps.*f32Contiguous' cuda_ops_test
  sanitized racecheck waist 'CudaSoftmax.Rows*:CudaReduce.*Nothing*' cuda_waist_test
  sanitized racecheck fused_kernels '-*MemoryScan*' cuda_fused_kernels_test
}

run_stage() {
  stage="$1" stage_begin=$SECONDS parts=() failed=()
  if [[ -e "$out/$stage.json" ]]; then
    say "$stage: done before, see $out/$stage.json"
    return
  fi
  "stage_$stage"
  local target="$out/$stage.json" text
  if ((${#failed[@]} > 0)); then
    target="$out/$stage.failed.json"
    all_failed+=("$stage (${failed[*]})")
  fi
  text="$(printf '%s, ' "${parts[@]}")"
  printf '{"stage": "%s", "gpu": "%s", "seconds": %d, "parts": [%s]}\n' "$stage" "$gpu" \
    $((SECONDS - stage_begin)) "${text%, }" >"$target"
  say "$stage: $target"
}

main() {
  out="$root/runs/gpu_check"
  local chosen=("${stages[@]}") name
  while (($# > 0)); do
    [[ "$1" == -h || "$1" == --help ]] && usage && exit 0
    case "$1" in
      --out | --only) ;;
      *) die "unknown option $1 (see --help)" ;;
    esac
    (($# > 1)) || die "$1 needs a value (see --help)"
    case "$1" in
      --out) out="$2" ;;
      --only) IFS=, read -r -a chosen <<<"$2" ;;
    esac
    shift 2
  done
  for name in "${chosen[@]}"; do
    [[ " ${stages[*]} " == *" $name "* ]] || die "no stage $name; there are: ${stages[*]}"
  done
  command -v nvidia-smi >/dev/null || die "nvidia-smi is not here: a machine with a GPU is needed"
  gpu="$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader |
    head -n 1)" || die "nvidia-smi shows no GPU"
  mkdir -p "$out"
  all_failed=()
  for name in "${chosen[@]}"; do run_stage "$name"; done
  ((${#all_failed[@]} == 0)) || die "failed: ${all_failed[*]}"
}

main "$@"
