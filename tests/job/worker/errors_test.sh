#!/usr/bin/env bash
# What goes wrong on one rank, or on all at once, is said once and ends every process.
# shellcheck source=tests/job/worker/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# says_once NAME PATTERN: the one error, on one line.
says_once() {
  (($(grep -c '^mnemo: error: ' "$scratch/$1.log") == 1)) || fail "$1: not one error"
  grep -qE "^mnemo: error: .*$2" "$scratch/$1.log" || fail "$1: does not say: $2"
}

# two NAME PATTERN FIRST -- SECOND: a rank with each list of options.
two() {
  local name="$1" pattern="$2" first=() common
  shift 2
  common=(train "$scratch/job.textproto" --run-dir "$scratch/$name/run")
  while [[ "$1" != -- ]]; do first+=("$1") && shift; done
  shift
  mpi "$name" -n 1 "$mnemo" "${common[@]}" "${first[@]}" : -n 1 "$mnemo" "${common[@]}" "$@"
  await bad "$name"
  says_once "$name" "$pattern"
}

missing_shard() {
  two missing 'rank 1 on .*/nowhere' --shards "$scratch/shards" -- --shards /nowhere
  two missing_first '/nowhere' --shards /nowhere -- --shards "$scratch/shards"
  two missing_both '/nowhere' --shards /nowhere -- --shards /nowhere
}

other_configuration() {
  two other 'train.seed is 0 on the first rank and 4 here' --shards "$scratch/shards" -- \
    --shards "$scratch/shards" --set train.seed=4
}

# The block is read in the first step, by both ranks at about the same time.
damaged_shard() {
  cp -r "$scratch/shards" "$scratch/damaged"
  local shard
  shard="$(ls "$scratch"/damaged/train-*.h5)"
  # Somewhere in the middle of the text.
  local at
  at="$(LC_ALL=C grep -obUaP 'S\x00c\x00a\x00l\x00i\x00n\x00g' "$shard" | head -n 1 | cut -d: -f1)"
  printf '~' | dd of="$shard" bs=1 seek="$at" conv=notrunc status=none
  two damaged 'train-00000.h5.* is damaged' --shards "$scratch/damaged" -- --shards "$scratch/damaged"
}

# joins NAME PATTERN MPI...: ranks that a coordinator for two refuses.
joins() {
  local name="$1" pattern="$2" coordinator
  shift 2
  "$mnemo" coordinate "$scratch/job.textproto" --shards "$scratch/shards" \
    --run-dir "$scratch/$name/run" >>"$scratch/coordinator.log" 2>&1 &
  coordinator=$!
  processes+=("$coordinator")
  mpi "$name" "$@"
  await bad "$name"
  says_once "$name" "$pattern"
  kill -TERM "$coordinator" 2>/dev/null || true
  wait "$coordinator" || true
}

wrong_world_size() {
  joins world 'a world of 3 ranks, but the plan is for 2' -n 3 "$mnemo" train --run-dir "$scratch/world/run"
}

# The coordinator, which nobody joins, does not wait for ever either.
too_few_ranks() {
  local coordinator
  coordinate few --set parallel.sp=3 --join-seconds 2
  mpi few -n 2 "$mnemo" train --run-dir "$scratch/few/run"
  await bad few
  says_once few 'a world of 2 ranks, but the plan is for 3'
  refuses few '3 of 3 ranks have not joined within 2 s: 0, 1, 2; look at their output'
}

another_build() {
  sed 's/mnemo 0\.1\.0, commit/mnemo 0.1.x, commit/' "$mnemo" >"$scratch/mnemo"
  chmod +x "$scratch/mnemo"
  joins build 'rank 1 on .* runs another build \(mnemo 0\.1\.x' \
    -n 1 "$mnemo" train --run-dir "$scratch/build/run" : \
    -n 1 "$scratch/mnemo" train --run-dir "$scratch/build/run"
}

# A run whose coordinator dies goes on to its end.
coordinator_dies() {
  "$mnemo" coordinate "$scratch/job.textproto" --shards "$scratch/shards" \
    --run-dir "$scratch/left/run" >>"$scratch/coordinator.log" 2>&1 &
  local coordinator=$!
  processes+=("$coordinator")
  mpi left -n 2 "$mnemo" train --run-dir "$scratch/left/run"
  reached left 20
  kill -KILL "$coordinator"
  wait "$coordinator" 2>/dev/null || true
  await 0 left
  (($(grep -c 'the coordinator is gone; training goes on' "$scratch/left.log") == 1)) ||
    fail "left: does not say once that it is alone"
  (($(last_step left) == 120)) || fail "left: ended early"
}

# Sets `coordinator`.
coordinate() {
  local name="$1"
  shift
  "$mnemo" coordinate "$scratch/job.textproto" --shards "$scratch/shards" \
    --run-dir "$scratch/$name/run" "$@" >>"$scratch/coordinator_$name.log" 2>&1 &
  coordinator=$!
  processes+=("$coordinator")
}

# refuses NAME PATTERN: the coordinator ends by itself, with one line that says so.
refuses() {
  local code=0 log="$scratch/coordinator_$1.log"
  wait "$coordinator" || code=$?
  ((code != 0 && code < 128)) || fail "$1: the coordinator ended with $code"
  (($(grep -c '^mnemo: error: ' "$log") == 1)) || fail "$1: not one error of the coordinator"
  grep -qE "^mnemo: error: .*$2" "$log" || fail "$1: the coordinator does not say: $2"
}

# The ranks follow the plan that they began with; a coordinator with another one is none of theirs,
# and says what it lacks. Nor may it discard what they write.
another_plan() {
  local coordinator
  coordinate plan
  mpi plan -n 2 "$mnemo" train --run-dir "$scratch/plan/run"
  reached plan 5
  kill -KILL "$coordinator"
  wait "$coordinator" 2>/dev/null || true
  coordinate plan --overwrite
  refuses plan 'is not discarded: its coordinator \(process .*\) died'
  (($(last_step plan) >= 5)) || fail "plan: the metrics are gone"
  rm "$scratch/coordinator_plan.log"
  coordinate plan --set train.slice=8 --join-seconds 2
  await 0 plan
  (($(grep -c 'rank 0 on .* follows another plan' "$scratch/plan.log") == 1)) ||
    fail "plan: the ranks do not say once why they are not taken back"
  (($(last_step plan) == 120)) || fail "plan: ended early"
  refuses plan '2 of 2 ranks have not joined within 2 s: 0, 1'
}

port_in_use() {
  local coordinator first
  coordinate first
  first="$coordinator"
  until [[ -e "$scratch/first/run/coordinator.json" ]]; do sleep 0.05; done
  local address
  address="$(sed -n 's/.*"address": *"\([^"]*\)".*/\1/p' "$scratch/first/run/coordinator.json")"
  coordinate second --listen "$address"
  refuses second "cannot listen on $address: Address already in use"
  [[ ! -e "$scratch/second/run/coordinator.json" ]] || fail "second: leaves an address behind"
  kill -KILL "$first"
  wait "$first" 2>/dev/null || true
}

# The second rank sees another directory under the run's name: it waits, in vain, as long as it was
# told to; the first ends with it, and so does the coordinator.
unseen_run_directory() {
  local coordinator
  coordinate unseen --join-seconds 4
  mpi unseen -n 1 "$mnemo" train --run-dir "$scratch/unseen/run" : \
    -n 1 "$mnemo" train --run-dir "$scratch/elsewhere/run" --join-seconds 1
  await bad unseen
  says_once unseen 'rank 1 has waited 1 s: no coordinator serves .*/elsewhere/run'
  refuses unseen 'rank [01] '
}

prepare
for case in missing_shard other_configuration damaged_shard wrong_world_size too_few_ranks \
  another_build coordinator_dies another_plan port_in_use unseen_run_directory; do
  SECONDS=0
  "$case"
  say "$case: $SECONDS s"
done
