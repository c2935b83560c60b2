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

prepare
for case in missing_shard other_configuration damaged_shard wrong_world_size another_build \
  coordinator_dies; do
  SECONDS=0
  "$case"
  say "$case: $SECONDS s"
done
