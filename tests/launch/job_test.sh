#!/usr/bin/env bash
# Whole jobs through launch/local.sh: a coordinator, mpirun and its ranks, and what can happen to them.
#
#   job_test.sh [CASE]...     all cases unless some are named; MNEMO names the binary
# shellcheck disable=SC2016  # `eventually` evaluates again and again
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

mnemo="${MNEMO:-$root/build/mnemo}"
scratch="$(mktemp -d)"
job=0 # process number of launch/local.sh
grace=60

clean_up() {
  ((job == 0)) || kill -TERM "$job" 2>/dev/null || true
  pkill -KILL -f -- "--run-dir $scratch/" || true
  rm -rf "$scratch"
}
trap clean_up EXIT

# start NAME STEPS [OPTION]...: a job of four ranks in $scratch/NAME.
start() {
  local name="$1" steps="$2"
  shift 2
  run="$scratch/$name"
  # A shell ignores SIGINT for what it runs in the background.
  MNEMO="$mnemo" MNEMO_GRACE_SECONDS="$grace" env --default-signal=INT "$root/launch/local.sh" "$scratch/job.textproto" -n 4 \
    --run-dir "$run" --shards "$scratch/shards" --set "train.steps=$steps" --silent-seconds 5 "$@" \
    >"$scratch/$name.log" 2>&1 &
  job=$!
}

# fail WORDS: with what the job wrote.
fail() {
  sed 's/^/  | /' "$scratch"/*.log >&2
  die "$(basename "$run"): $*"
}

# eventually SECONDS WHAT COMMAND...: until the command succeeds.
eventually() {
  local ticks=$((10 * $1)) what="$2"
  shift 2
  until "$@"; do
    ((ticks-- > 0)) || fail "not in time: $what"
    sleep 0.1
  done
}

steps_taken() { sed -n '/"step"/p' "$run/metrics.jsonl" 2>/dev/null | wc -l; }
trains() { (($(steps_taken) > ${1:-1})); }
process_of() { pgrep -f -- "$1.*--run-dir $run( |\$)" | head -n 1; }
coordinator() { process_of "coordinate"; }
a_rank() { pgrep -f -- "^$mnemo train --run-dir $run\$" | sed -n 2p; }
nobody_left() { ! pgrep -f -- "--run-dir $run( |\$)" >/dev/null; }
checkpoints() { find "$run/checkpoints" -name manifest.pb 2>/dev/null | wc -l; }

# ends_with CODE SECONDS: the job ends in time, all processes with it, and with the code ("bad": any but
# 0; "any").
ends_with() {
  local code=0
  eventually "$2" "the end of the job" eval "! kill -0 $job 2>/dev/null"
  wait "$job" || code=$?
  job=0
  case "$1" in
    any) ;;
    bad) ((code != 0)) || fail "ended with 0" ;;
    *) ((code == $1)) || fail "ended with $code, not $1" ;;
  esac
  eventually 5 "the end of all processes" nobody_left
}

says() { grep -qE -- "$1" "$scratch/$(basename "$run").log" || fail "does not say: $1"; }

case_finishes() {
  start finishes 6 --no-memory-check
  ends_with 0 60
  [[ -s "$run/model/model.safetensors" ]] || fail "no model"
  (($(steps_taken) == 6)) || fail "$(steps_taken) steps in metrics.jsonl, not 6"
  [[ ! -e "$run/coordinator.json" ]] || fail "the coordinator's address is still there"
}

# A signal to the launcher saves and ends; the same command goes on.
case_stops_and_goes_on() {
  start stops 1000000
  eventually 30 "training" trains
  kill -USR1 "$job"
  eventually 20 "a checkpoint" eval '(($(checkpoints) > 0))'
  kill -0 "$job" || fail "SIGUSR1 ended it"
  kill -INT "$job"
  ends_with 0 30
  local taken
  taken="$(steps_taken)"
  start stops "$((taken + 2))"
  ends_with 0 60
  (($(steps_taken) == taken + 2)) || fail "$(steps_taken) steps, not $((taken + 2))"
}

# Without the launcher's help: what mpirun is sent it passes on; after a SIGTERM with all its patience.
case_mpirun_is_told_to_end() {
  start mpirun 1000000
  eventually 30 "training" trains
  kill -USR2 "$(process_of mpirun)"
  ends_with 0 30
  (($(checkpoints) > 0)) || fail "nothing was saved"
  grace=4
  start terminated 1000000
  eventually 30 "training" trains
  kill -TERM "$(process_of mpirun)"
  ends_with any 30
  grace=60
  (($(checkpoints) > 0)) || fail "nothing was saved"
}

# A terminal that is closed takes nothing with it.
case_hangs_up() {
  start hangs_up 1000000
  eventually 30 "training" trains
  kill -HUP "$job"
  ends_with 0 30
  (($(checkpoints) > 0)) || fail "nothing was saved"
}

case_coordinator_dies() {
  local before
  start coordinator 1000000
  eventually 30 "training" trains
  before="$(coordinator)"
  kill -KILL "$before"
  eventually 20 "another coordinator" eval '[[ -n "$(coordinator)" && "$(coordinator)" != '"$before"' ]]'
  says 'the coordinator died'
  eventually 20 "its status" eval '"$mnemo" status "$run" 2>/dev/null | grep -q TRAINING'
  kill -TERM "$job"
  ends_with 0 30
}

# Three times it is started again; then training goes on without. A coordinator that was told to discard
# an earlier run is not told again.
case_coordinator_dies_for_good() {
  local round before saved
  start for_good 1000000 --overwrite
  eventually 30 "training" trains
  kill -USR1 "$job"
  eventually 20 "a checkpoint" eval '(($(checkpoints) > 0))'
  for round in 1 2 3 4; do
    eventually 20 "coordinator $round" eval '[[ -n "$(coordinator)" && -e "$run/coordinator.json" ]]'
    before="$(coordinator)"
    kill -KILL "$before"
    eventually 20 "the end of coordinator $round" eval "! kill -0 $before 2>/dev/null"
    (($(checkpoints) > 0)) || fail "the checkpoint is gone"
  done
  eventually 5 "the launcher's word" \
    grep -q 'died for the 4th time; training goes on without one' "$scratch/for_good.log"
  [[ -z "$(coordinator)" ]] || fail "there is a fifth coordinator"
  before="$(steps_taken)"
  saved="$(checkpoints)"
  eventually 20 "training" trains "$before"
  kill -TERM "$job"
  ends_with 0 30
  (($(checkpoints) > saved)) || fail "nothing was saved"
}

case_rank_dies() {
  start killed 1000000
  eventually 30 "training" trains
  kill -KILL "$(a_rank)"
  ends_with bad 30
  says 'lost rank [0-9]+ \(host .*gone|rank [0-9]+ on '
}

case_rank_is_silent() {
  local victim
  start silent 1000000
  eventually 30 "training" trains
  victim="$(a_rank)"
  kill -STOP "$victim"
  ends_with 1 30
  says 'lost rank [0-9]+ .*silent'
}

# Even a launcher that is killed leaves nobody behind.
case_launcher_dies() {
  start orphans 1000000
  eventually 30 "training" trains
  kill -KILL "$job"
  wait "$job" 2>/dev/null || true
  job=0
  eventually 30 "the end of all processes" nobody_left
  (($(checkpoints) > 0)) || fail "nothing was saved"
}

all=(finishes stops_and_goes_on mpirun_is_told_to_end hangs_up coordinator_dies
  coordinator_dies_for_good rank_dies rank_is_silent launcher_dies)

main() {
  "$mnemo" --log-level warning data prepare "$root/docs" --out "$scratch/shards" --tokenizer bytes \
    >/dev/null
  cat >"$scratch/job.textproto" <<'END'
model { block: LMM layers: 2 width: 32 heads: 2 memory { depth: 1 chunk: 16 layer_norm: false clamp: 1 } }
train {
  steps: 1 sequence_length: 256 slice: 64 micro_batches: 2
  optimizer { learning_rate: 1e-3 }
}
parallel { dp: 2 sp: 2 }
execution { threads: 1 }
END
  local name
  for name in "${@:-${all[@]}}"; do
    SECONDS=0
    "case_$name"
    say "$name: $SECONDS s"
  done
}

main "$@"
