# shellcheck shell=bash
# What the tests of whole training processes share. Sourced; MNEMO names the binary.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../launch/common.sh"

mnemo="${MNEMO:-$root/build/mnemo}"
scratch="$(mktemp -d)"
processes=() # to be gone when the test ends

clean_up() {
  local process
  for process in "${processes[@]}"; do
    # shellcheck disable=SC2046
    kill -KILL "$process" $(pgrep -P "$process") 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap clean_up EXIT

# A model of two layers and text of a few dozen sequences, so that a run of 120 steps takes some
# seconds and several epochs.
prepare() {
  "$mnemo" --log-level warning data prepare "$root/docs/scaling.md" "$root/docs/contributing.md" \
    --out "$scratch/shards" --tokenizer bytes >/dev/null
  cat >"$scratch/job.textproto" <<'END_OF_CONFIG'
model { block: LMM layers: 2 width: 16 heads: 2 memory { chunk: 8 } }
train {
  steps: 120 sequence_length: 64 slice: 16 accumulation: 2
  optimizer { learning_rate: 3e-3 }
}
parallel { sp: 2 }
execution { threads: 1 }
END_OF_CONFIG
}

# fail WORDS: with what the processes wrote.
fail() {
  sed 's/^/  | /' "$scratch"/*.log >&2
  die "$*"
}

# mpi LOG ARGUMENT...: mpirun in the background; sets `mpi`.
mpi() {
  local log="$scratch/$1.log"
  shift
  # A shell ignores SIGINT for what it runs in the background.
  env --default-signal=INT mpirun --oversubscribe --bind-to none "$@" >>"$log" 2>&1 &
  mpi=$!
  processes+=("$mpi")
}

# train NAME OPTION...: two ranks of the run $scratch/NAME/run, in the background.
train() {
  local name="$1"
  shift
  mpi "$name" -n 2 "$mnemo" train "$scratch/job.textproto" --shards "$scratch/shards" \
    --run-dir "$scratch/$name/run" "$@"
}

# await CODE WHAT: for mpirun to end; "bad": with any code but 0.
await() {
  local code=0
  wait "$mpi" || code=$?
  if [[ "$1" == bad ]]; then ((code != 0)) || fail "$2: ended with 0"; else
    ((code == $1)) || fail "$2: ended with $code, not $1"
  fi
}

ranks() { pgrep -P "$mpi"; }

# Waits for both to be there, or for the end.
await_ranks() {
  until (($(ranks | wc -l) >= 2)); do
    kill -0 "$mpi" 2>/dev/null || return 0
    sleep 0.02
  done
}

last_step() {
  local line
  line="$(tail -n 1 "$scratch/$1/run/metrics.jsonl" 2>/dev/null)" || true
  [[ "$line" =~ \"step\":([0-9]+) ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

# reached NAME STEP: waits until the run has taken it.
reached() {
  local ticks=0
  until (($(last_step "$1") >= $2)); do
    ((++ticks < 3000)) || fail "$1: step $2 is not reached"
    kill -0 "$mpi" 2>/dev/null || (($(last_step "$1") >= $2)) || fail "$1: ended before step $2"
    sleep 0.02
  done
}

checkpoints() { find "$scratch/$1/run/checkpoints" -name manifest.pb 2>/dev/null | wc -l; }

numbers() {
  sed -E 's/.*("step":[0-9]+,"loss":[^,]*),.*("gradient_norm":[^,]*),.*/\1 \2/' \
    "$scratch/$1/run/metrics.jsonl"
}

# same NAME: every number and every byte of the weights are those of the run that was not interrupted.
same() {
  [[ -s "$scratch/$1/run/metrics.jsonl" ]] || fail "$1: no metrics"
  cmp <(numbers whole) <(numbers "$1") || fail "$1: other losses"
  cmp "$scratch"/{whole,"$1"}/run/loss.svg || fail "$1: another loss curve"
  cmp "$scratch"/{whole,"$1"}/run/model/model.safetensors || fail "$1: another model"
}
