#!/usr/bin/env bash
# Checks this machine's GPU with what was built for it, stage by stage.
#
#   launch/gpu_check.sh [--out DIR] [--only STAGE[,STAGE]..]
#
#   --out DIR     results: STAGE.json and STAGE.log (default: runs/gpu_check). A stage whose JSON is
#                 there is not run again; STAGE.failed.json says what was wrong and does not count
#   --only LIST   these stages; without it all of them, in this order:
#                   scan       the memory scan's kernels against f64: every option, chunk and branch
#                   ops        every op, kernel, product and fused kernel against the CPU
#                   training   200 steps of tiny models: GPU beside CPU, twice, resumed, whatever
#                              is kept for the backward pass
#                   resume     a bf16 run with asynchronous saves, killed and resumed again and again
#                   speed      training steps beside PyTorch's, three shapes
#                   memory     small runs' peaks beside the plan's, and those of speed, which has to
#                              be run before, beside PyTorch's
#                   ckpt       copies of what is saved, beside bare ones; steps beside a save
#                   ops_bench  every op beside what the GPU gives at most; ops_bench.svg
#                   memory_bench  the memory scan beside PyTorch's and FLA's; memory_bench.svg
#                   recall     the cells of launch/recall_study.sh
#                   sanitizer  a part of ops under compute-sanitizer's memcheck
#                   race       our kernels that share memory of a block under its racecheck
#
# Each stage takes less than 8 minutes. speed and recall may need more than one call: what they have
# done is kept in DIR (speed.part, recall.part), and they go on from there. In the environment: PYTHON,
# the Python that has PyTorch (default: python3), and RECALL, more options of launch/recall_study.sh. Runs
# in a bundle (launch/bundle.sh) as `./run.sh launch/gpu_check.sh`, or in the source tree on what is in
# build-cuda.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

stages=(scan ops training resume speed memory ckpt ops_bench memory_bench recall sanitizer race)
stage_seconds=470
python="${PYTHON:-python3}"
bench="$root/tests/bench"

# program NAME: where it is.
program() {
  local place
  for place in "$root/bin" "$root/build-cuda" "$root/build-cuda/tests/core/cuda" \
    "$root/build-cuda/tests/job" "$root/build-cuda/tests/ckpt" \
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

# What is left of the stage's time, in seconds.
time_left() {
  local left=$((stage_seconds - (SECONDS - stage_begin)))
  echo $((left > 1 ? left : 1))
}

# run NAME COMMAND...: a part of the stage, within the stage's time, with its output in the stage's
# log and an entry in the stage's JSON. Goes on after a failure, so that one call shows all of them.
run() {
  local name="$1" log="$out/$stage.log" begin=$SECONDS code=0 left from
  shift
  left="$(time_left)"
  echo "== $name: $*" >>"$log"
  from=$(($(stat -c %s "$log") + 1))
  timeout --kill-after=10 "$left" "$@" >>"$log" 2>&1 || code=$?
  if ((code == 124 || code == 137)); then echo "stopped after $left s" >>"$log"; fi
  if ((code != 0)); then
    failed+=("$name")
    tail -c "+$from" "$log" | tail -n 40
  fi
  parts+=("$(printf '{"name": "%s", "exit_code": %d, "seconds": %d, "tests": %d, "failed": %d}' \
    "$name" "$code" $((SECONDS - begin)) \
    "$(tail -c "+$from" "$log" | grep -c '^\[       OK \]')" \
    "$(tail -c "+$from" "$log" | grep -c '^\[  FAILED  \].*ms)$')")")
  say "$stage: $name: exit code $code, $((SECONDS - begin)) s"
}

# result NAME FILE: puts the JSON that a part wrote into the stage's.
result() {
  if [[ -s "$2" ]]; then results+=("\"$1\": $(cat "$2")"); fi
}

# The lines of the stage's log that are a Markdown table, and what is said of them.
show() { grep -E "$1" "$out/$stage.log" || true; }

programs=(cuda_ops_test cuda_waist_test cuda_fused_kernels_test)

stage_scan() {
  need memory_scan_check
  run check "$(program memory_scan_check)" check
}

stage_ops() {
  need "${programs[@]}" cuda_footprint_test
  run ops "$(program cuda_ops_test)"
  run waist "$(program cuda_waist_test)"
  run fused_kernels "$(program cuda_fused_kernels_test)"
  run footprint "$(program cuda_footprint_test)"
}

stage_training() {
  need mnemo
  local shards="$out/text" text=/usr/include
  # Real text that every machine has: C headers, or what Python brings along.
  if (($(find "$text" -name '*.h' 2>/dev/null | head -n 500 | wc -l) < 500)); then
    text="$("$python" -c 'import os; print(os.path.dirname(os.__file__))')"
  fi
  run prepare "$(program mnemo)" data prepare "$text" --include '*.h' --include '*.py' \
    --invalid-utf8 replace --holdout 0.05 --out "$shards" --overwrite --quiet
  run devices "$python" "$bench/training/devices.py" "$(program mnemo)" "$root/configs" "$shards" \
    --json "$out/devices.part"
  result devices "$out/devices.part"
  show 'same|NO|bf16'
}

# In every step a save that is written behind the next ones, over bounds of epochs.
stage_resume() {
  need mnemo
  run kills env MNEMO="$(program mnemo)" "$root/launch/kill_study.sh" --n 12 --ranks 1 \
    --steps 60 --set execution.device=CUDA --set execution.precision=BF16 --json "$out/resume.part"
  result kills "$out/resume.part"
  show 'runs equal'
}

# Beside PyTorch, three shapes. What is done is kept between calls.
stage_speed() {
  need mnemo
  run compare "$python" "$bench/training/compare.py" "$(program mnemo)" "$root/configs" \
    --python "$(command -v "$python")" --budget "$(($(time_left) - 15))" --json "$out/speed.part"
  result training "$out/speed.part"
  show '^\||over PyTorch|not tried'
}

stage_memory() {
  need mnemo plan_memory_gpu_test
  run plan "$(program plan_memory_gpu_test)"
  run memory "$python" "$bench/training/memory.py" "$out/speed.part" --json "$out/memory.part"
  result memory "$out/memory.part"
  show '^\|'
}

# Short steps, so that several end while a save is written.
stage_ckpt() {
  need mnemo state_snapshot_gpu_test
  run snapshots "$(program state_snapshot_gpu_test)"
  run ckpt "$(program mnemo)" bench ckpt --device cuda --dir "$out" --bytes 8GB \
    --config "$root/configs/340m_lmm.textproto" --set execution.device=CUDA \
    --set train.accumulation=1 --json "$out/ckpt.part"
  result ckpt "$out/ckpt.part"
  show '^\||slower|held training'
}

stage_ops_bench() {
  need mnemo
  run ops "$(program mnemo)" bench ops --device cuda --json "$out/ops_bench.part" \
    --plot "$out/ops_bench.svg"
  result ops "$out/ops_bench.part"
}

# What FLA needs (tests/bench/memory/linear_fla.py) may be in PYTHONPATH; without it it is left out.
stage_memory_bench() {
  need mnemo
  run memory "$(program mnemo)" bench memory --device cuda --compare --python "$python" \
    --json "$out/memory_bench.part" --plot "$out/memory_bench.svg"
  result memory "$out/memory_bench.part"
  show '^\||skipped|no time'
}

# Several small trainings share the GPU, each as long as it may. What is done is kept between calls.
stage_recall() {
  need mnemo
  local more
  if [[ -s "$out/recall.part" ]]; then # from another machine, maybe
    "$python" "$bench/recall/table.py" "$out/recall_cells" --restore "$out/recall.part" >/dev/null
  fi
  read -r -a more <<<"${RECALL:-}"
  run study env MNEMO="$(program mnemo)" "$root/launch/recall_study.sh" --out "$out/recall_cells" \
    --cells all --jobs 8 --seconds 60 --budget "$(($(time_left) - 15))" \
    --set execution.device=CUDA "${more[@]}"
  run table "$python" "$bench/recall/table.py" "$out/recall_cells" --json "$out/recall.part" \
    --expect 48
  result recall "$out/recall.part"
  show '^\||cells'
}

sanitizer="$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)"

need_sanitizer() {
  need "${programs[@]}"
  [[ -x "$sanitizer" ]] || die "compute-sanitizer is not here; it is part of the CUDA toolkit"
}

# sanitized TOOL NAME FILTER PROGRAM
sanitized() {
  local options=(--tool "$1" --error-exitcode 1 --print-limit 20)
  # It does not follow the barriers of cuBLAS's kernels, and takes minutes for one.
  [[ "$1" == racecheck ]] && options+=(--kernel-name kernel_substring=mnemo)
  # Every kernel that is loaded is instrumented: only those that are used, then.
  run "$2" env CUDA_MODULE_LOADING=LAZY "$sanitizer" "${options[@]}" "$(program "$4")" \
    --gtest_filter="$3"
}

stage_sanitizer() {
  need_sanitizer
  local waist='CudaElementwise.NarrowAddedToWide:CudaElementwise.Fills*:CudaGemm.OneFactor*'
  waist+=':CudaGemm.Sums*:CudaReduce.*Nothing*:CudaSoftmax.Rows*:CudaDevice.AdamW*:BareKernels.*'
  sanitized memcheck ops 'All/CudaOps.*:CudaCompositions.NormsGatesAndConvolutions' cuda_ops_test
  sanitized memcheck waist "$waist" cuda_waist_test
  sanitized memcheck fused_kernels '*' cuda_fused_kernels_test
}

# Fused ops that multiply are left out: in cuBLAS's kernels racecheck ends with an internal error
# (580.159, CUDA 13.0). Their own kernels run alone, in BareKernels.
stage_race() {
  need_sanitizer
  local multiply='*MemoryScan*:*Gates*:*CrossEntropy*'
  sanitized racecheck ops 'All/CudaOps.*f32Contiguous' cuda_ops_test
  sanitized racecheck waist 'CudaSoftmax.Rows*:CudaReduce.*Nothing*:BareKernels.*' cuda_waist_test
  sanitized racecheck fused_kernels "-$multiply" cuda_fused_kernels_test
}

run_stage() {
  stage="$1" stage_begin=$SECONDS parts=() failed=() results=()
  if [[ -e "$out/$stage.json" ]]; then
    say "$stage: done before, see $out/$stage.json"
    return
  fi
  : >"$out/$stage.log"
  "stage_$stage"
  local target="$out/$stage.json" text
  if ((${#failed[@]} > 0)); then
    target="$out/$stage.failed.json"
    all_failed+=("$stage (${failed[*]})")
  fi
  text="$(printf '%s, ' "${parts[@]}")"
  local details=""
  if ((${#results[@]} > 0)); then details="$(printf ', %s' "${results[@]}")"; fi
  printf '{"stage": "%s", "gpu": "%s", "seconds": %d, "parts": [%s]%s}\n' "$stage" "$gpu" \
    $((SECONDS - stage_begin)) "${text%, }" "$details" >"$target"
  if [[ "$target" == "$out/$stage.json" ]]; then rm -f "$out/$stage.failed.json"; fi
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
