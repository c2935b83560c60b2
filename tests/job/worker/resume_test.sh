#!/usr/bin/env bash
# Interrupted runs of real processes that go on, bit by bit as if nothing had happened.
#
#   resume_test.sh [SEED]     of the moments at which ranks are killed
# shellcheck source=tests/job/worker/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

RANDOM="${1:-$$}"
say "seed ${1:-$$}"

# kill -9 of one rank or of all, ten times: the first three while they start, the others anywhere
# in the run, unless a busy machine lets it end before.
killed_at_random() {
  local moment victims code=0
  for moment in {1..10}; do
    train killed --every 3 --keep 2
    if ((moment > 3)); then
      reached killed $(((moment - 3) * 14 + RANDOM % 10))
      await_ranks # the run before may have come this far
      sleep "0.0$((RANDOM % 30 + 10))"
    else
      sleep "0.$((RANDOM % 800 + 100))"
    fi
    mapfile -t victims < <(ranks)
    ((RANDOM % 2 == 0)) || victims=("${victims[@]:RANDOM % 2:1}")
    ((${#victims[@]} == 0)) || kill -KILL "${victims[@]}" 2>/dev/null || true
    code=0
    wait "$mpi" || code=$?
    ((code != 0)) || break
  done
  say "killed $((code == 0 ? moment - 1 : moment)) times"
  (($(checkpoints killed) <= 3)) || fail "killed: $(checkpoints killed) checkpoints are kept"
  if ((code != 0)); then
    train killed --every 3 --keep 2
    await 0 killed
  fi
  grep -q 'going on after step' "$scratch/killed.log" || fail "killed: never went on"
  same killed
}

# Every rank gets what a terminal sends.
interrupted() {
  train interrupted
  reached interrupted 20
  mapfile -t all < <(ranks)
  kill -INT "${all[@]}"
  await 0 interrupted
  (($(checkpoints interrupted) == 1)) || fail "interrupted: not saved"
  [[ "$(grep -c 'stopping after this step' "$scratch/interrupted.log")" == 1 ]] ||
    fail "interrupted: said more than once"
  train interrupted
  await 0 interrupted
  same interrupted
  train interrupted
  await bad interrupted
  grep -q 'holds a run that has ended' "$scratch/interrupted.log" || fail "interrupted: does not say so"
}

# SIGUSR1, which mpirun passes on, saves; the run goes on.
asked_to_save() {
  train saved --every 1000
  reached saved 5
  kill -USR1 "$mpi"
  until (($(checkpoints saved) > 0)); do
    kill -0 "$mpi" 2>/dev/null || fail "saved: ended first"
    sleep 0.05
  done
  await 0 saved
  (($(checkpoints saved) == 2)) || fail "saved: $(checkpoints saved) checkpoints, not 2"
  same saved
}

# Under a coordinator, which is asked to stop.
stopped() {
  local coordinator
  for part in 1 2; do
    "$mnemo" coordinate "$scratch/job.textproto" --shards "$scratch/shards" \
      --run-dir "$scratch/stopped/run" >>"$scratch/coordinator.log" 2>&1 &
    coordinator=$!
    processes+=("$coordinator")
    mpi stopped -n 2 "$mnemo" train --run "$scratch/stopped/run"
    if ((part == 1)); then
      reached stopped 30
      "$mnemo" stop "$scratch/stopped/run" >/dev/null
    fi
    await 0 stopped
    wait "$coordinator" || fail "stopped: the coordinator ended badly"
    ((part == 2 || $(checkpoints stopped) == 1)) || fail "stopped: not saved"
  done
  same stopped
}

# A byte of what rank 1 reads is flipped: both ranks, and their coordinator, take the older one.
damaged() {
  local coordinator run="$scratch/damaged/run"
  train damaged --every 40 --keep 9
  await 0 damaged
  rm -r "$run/model" "$run/checkpoints/step-000000000120"
  local file="$run/checkpoints/step-000000000080/rank-00001.h5" size
  size="$(stat -c %s "$file")"
  local byte
  byte="$(tail -c 1 "$file" | od -An -tu1)"
  printf '%b' "\\x$(printf %02x $((byte ^ 1)))" |
    dd of="$file" bs=1 seek=$((size - 1)) conv=notrunc status=none
  train damaged --strict
  await bad damaged
  grep -q "error: rank 1 on .*$file: piece .* without --strict" "$scratch/damaged.log" ||
    fail "damaged: --strict does not say so"
  "$mnemo" coordinate "$scratch/job.textproto" --shards "$scratch/shards" --every 40 --keep 9 \
    --run-dir "$run" >>"$scratch/coordinator.log" 2>&1 &
  coordinator=$!
  processes+=("$coordinator")
  mpi damaged -n 2 "$mnemo" train --run "$run"
  await 0 damaged
  wait "$coordinator" || fail "damaged: the coordinator ended badly"
  grep -q "DAMAGED CHECKPOINT: rank 1 on .*$file: piece " "$scratch/damaged.log" ||
    fail "damaged: not named"
  grep -q 'going on after step 40,' "$scratch/damaged.log" || fail "damaged: not from step 40"
  same damaged
}

prepare
train whole
await 0 whole
for case in damaged interrupted asked_to_save stopped killed_at_random; do
  SECONDS=0
  "$case"
  say "$case: $SECONDS s"
done
