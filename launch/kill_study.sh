#!/usr/bin/env bash
# Kills training jobs with SIGKILL, mpirun and all ranks at once, at random moments, lets the same command
# go on, and compares what comes out with a run that nobody killed: losses of every step, and every bit
# of the last checkpoint.
#
#   launch/kill_study.sh [--n N] [--ranks R] [--steps S] [--seed S] [--set PATH=VALUE].. [--out DIR]
#     [--json FILE]
#
#   --n N         kills (100). A run that ends before its next kill is compared, and another one begun
#   --ranks R     ranks, laid out by the planner (2); 1 needs no mpirun
#   --steps S     optimizer steps of a run, each with a checkpoint (30)
#   --seed S      of the moments (1)
#   --set P=V     a field of the configuration, for instance execution.device=CUDA
#   --out DIR     for the runs, removed in the end if all is well (default: a temporary folder)
#   --json FILE   what was counted
#
# A quarter of the moments lie before the first step, however long a start takes, the others anywhere
# between it and the end, where every other kill waits for the next save to be under way, if one comes.
# Steps are short and checkpoints large (41 MB); the text lasts for eleven steps, so that runs cross the
# bounds of epochs.
# Exit code 1 if a run differs, fails or stands still; it stays in DIR then.
# MNEMO names another binary than build/mnemo.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mnemo="${MNEMO:-$root/build/mnemo}"
kills_wanted=100 ranks=2 steps=30 seed=1 out="" json="" settings=()
steps_of_text=11
kills=0 rounds=0 before_steps=0 in_saves=0 between=0
job=0 # process number of mpirun, or of the one rank; 0: none

parse() {
  while (($# > 0)); do
    case "$1" in
      -h | --help) usage && exit 0 ;;
      --n | --ranks | --steps | --seed)
        [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || die "$1 needs a number from 1 on"
        ;;&
      --n) kills_wanted="$2" ;;
      --ranks) ranks="$2" ;;
      --steps) steps="$2" ;;
      --seed) seed="$2" ;;
      --set)
        [[ "${2:-}" == *=* ]] || die "--set needs PATH=VALUE"
        settings+=(--set "$2")
        ;;
      --out) out="${2:?--out needs a directory}" ;;
      --json) json="${2:?--json needs a file}" ;;
      *) die "unknown option $1 (see --help)" ;;
    esac
    shift 2
  done
  [[ -x "$mnemo" ]] || die "no $mnemo; build first (cmake --preset release), or name it in MNEMO"
  ((ranks == 1)) || command -v mpirun >/dev/null ||
    die "there is no mpirun; launch/install.sh installs it"
}

# start: the run in $run from the beginning or from its newest checkpoint, in the background.
start() {
  local launcher=()
  if ((ranks > 1)); then
    launcher=(mpirun --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none
      --mca plm isolated --mca orte_tmpdir_base "$out/mpi" -n "$ranks")
    if ((EUID == 0)); then launcher+=(--allow-run-as-root); fi
    mkdir -p "$out/mpi"
  fi
  setsid "${launcher[@]}" "$mnemo" train "$root/configs/tiny_lmm.textproto" \
    --run-dir "$run" --shards "$out/shards" --steps "$steps" --every 1 --keep 3 \
    --set train.sequences=1 --set train.sequence_length="$sequence" --set train.slice=64 \
    --set train.optimizer.warmup_steps=2 --set model.mlp_hidden=4096 --set execution.threads=1 \
    "${settings[@]}" </dev/null >>"$run.log" 2>&1 &
  job=$!
}

processes() { pgrep -f -- "--run-dir $run( |\$)"; }

# Until no process of the job is left.
kill_all() {
  local ticks=100
  kill -KILL "$job" || true # it may not be mpirun yet
  while processes; do
    pkill -KILL -f -- "--run-dir $run( |\$)" || true
    ((ticks-- > 0)) || return 1
    sleep 0.1
  done
  wait "$job" || true
}

kill_job() {
  # Bash tells of every job that was killed.
  kill_all >/dev/null 2>&1 || fail "killed processes do not go away"
  job=0
  rm -rf "$out/mpi" # what mpirun had no time to remove
}

fail() {
  sed 's/^/  | /' "$run.log" | tail -n 40 >&2
  die "round $rounds, after $kills kills: $* ($out stays)"
}

now() { date +%s%N; }

# ended_within SECONDS: whether the job ends by itself in that time; with 0, or the study fails.
ended_within() {
  local until=$(($(now) + $1))
  while kill -0 "$job" 2>/dev/null; do
    if (($(now) >= until)); then return 1; fi
    sleep 0.02
  done
  wait "$job" || had_ended || fail "the job ended with an error"
  job=0
}

# Whether the kill before met a run that had written all it had to: it is not begun again.
had_ended() { tail -n 20 "$run.log" | grep -qF "$run holds a run that has ended"; }

# await_step LINES NANOSECONDS: until metrics.jsonl has more lines than that, or the time is over. A job
# that ends before is a failure, unless it had nothing left to do.
await_step() {
  local until=$(($(now) + $2))
  until (($(step_lines) > $1)); do
    if ! kill -0 "$job" 2>/dev/null; then
      (($(step_lines) >= steps)) || fail "the job ended and took no step"
      return 0
    fi
    if (($(now) >= until)); then return 1; fi
    sleep 0.02
  done
}

saving() { compgen -G "$run/checkpoints/*.tmp" >/dev/null; }

# Kills all of the job that runs now in the middle of its next save; nothing if none comes within two
# seconds. kill_job does the rest.
kill_in_save() {
  local until=$(($(now) + 2000000000)) all
  mapfile -t all < <(processes)
  until saving; do
    if (($(now) >= until)) || ! kill -0 "$job" 2>/dev/null; then return 0; fi
  done
  sleep "0.00$((RANDOM % 10))"
  kill -KILL "${all[@]}" 2>/dev/null || true
}

step_lines() { if [[ -e "$run/metrics.jsonl" ]]; then wc -l <"$run/metrics.jsonl"; else echo 0; fi; }

# Step and loss of every line; of a step that was taken again after a kill, of each time.
losses() { sed -n 's/^{"step":\([0-9]*\),"loss":\([^,}]*\).*/\1 \2/p' "$1/metrics.jsonl" | sort -u; }

compare() {
  local code=0
  "$mnemo" ckpt diff "$out/reference" "$run" >"$run.diff" 2>&1 || code=$?
  ((code == 0 || code == 1)) || fail "its last checkpoint cannot be compared: $(head -n 3 "$run.diff")"
  ((code == 0)) || fail "its last checkpoint is another: $(head -n 3 "$run.diff")"
  diff <(losses "$out/reference") <(losses "$run") >"$run.diff" ||
    fail "its losses are others: $(head -n 4 "$run.diff")"
  (($(losses "$run" | wc -l) == steps)) || fail "its metrics.jsonl lacks steps"
}

# What the kill met, by what the run's directory shows.
count() {
  kills=$((kills + 1))
  if saving; then
    in_saves=$((in_saves + 1))
  elif (($(step_lines) == $1)); then
    before_steps=$((before_steps + 1))
  else
    between=$((between + 1))
  fi
  printf '\r%s: %d of %d kills: %d before a step, %d in a save, %d between; %d runs compared' \
    "$(basename "$0" .sh)" "$kills" "$kills_wanted" "$before_steps" "$in_saves" "$between" \
    $((rounds - 1)) >&2
}

begin_round() {
  rounds=$((rounds + 1))
  run="$out/round$rounds"
  mkdir -p "$run"
}

main() {
  parse "$@"
  RANDOM="$seed"
  if [[ -z "$out" ]]; then out="$(mktemp -d)"; fi
  mkdir -p "$out"
  out="$(realpath "$out")"
  trap 'if ((job)); then kill_job; fi' EXIT
  local sequence=$((64 * ranks))
  head -c $((steps_of_text * sequence)) <(cat "$root"/launch/*.sh) >"$out/text.txt"
  "$mnemo" --log-level warning data prepare "$out/text.txt" --out "$out/shards" --tokenizer bytes \
    --overwrite --quiet
  run="$out/reference"
  rm -rf "$run" && mkdir -p "$run"
  local begin patience moment lines early
  begin="$(now)"
  start
  await_step 0 600000000000 || fail "the run that nobody kills takes no step"
  local first=$(($(now) - begin))
  ended_within 600000000000 || fail "the run that nobody kills does not end"
  local whole=$(($(now) - begin))
  patience=$((20 * whole + 30000000000))
  begin_round
  while ((kills < kills_wanted)); do
    lines="$(step_lines)"
    early=$((RANDOM % 4 == 0))
    start
    if ((early)); then
      moment=$((RANDOM * first / 32768))
    else
      # How long it takes to begin varies more than what follows. To stand still is a failure.
      await_step "$lines" "$patience" || fail "the job takes no step any more"
      moment=$((RANDOM * (whole - first) / 32768))
    fi
    if ended_within "$moment"; then
      compare
      begin_round
    else
      if ((kills % 2 == 1 && !early)); then kill_in_save; fi
      kill_job
      count "$lines"
    fi
  done
  start
  ended_within "$patience" || fail "the last run stands still"
  compare
  echo >&2
  say "all $rounds runs equal the one that nobody killed, step by step and bit by bit; $kills kills:" \
    "$before_steps before a step, $in_saves in a save, $between between"
  if [[ -n "$json" ]]; then
    LC_ALL=C printf '{"kills": %d, "ranks": %d, "steps": %d, "epochs": %.1f, "settings": "%s", "seed": %d, "runs": %d, "before_a_step": %d, "in_a_save": %d, "between": %d, "seconds_of_a_run": %.2f}\n' \
      "$kills" "$ranks" "$steps" "$((10 * steps / steps_of_text))e-1" "${settings[*]}" "$seed" "$rounds" "$before_steps" "$in_saves" "$between" \
      "$((whole / 1000000))e-3" >"$json"
  fi
  rm -rf "$out"
}

main "$@"
