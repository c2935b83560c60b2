# shellcheck shell=bash
# Runs a job: a coordinator and, under mpirun, its ranks. To be sourced, after common.sh, by the
# scripts that know where the ranks belong. They parse their own options, then call
#
#   parse_job_option "$@"    one option of the job; sets `taken`, the number of words it used
#   run_job                  the job; its exit code is the script's
#
# The ranks run in a session of their own: a Ctrl-C at the terminal comes to the script alone, which
# asks the coordinator, which asks the ranks to save and end. Should this script be killed, the kernel
# tells the coordinator (SIGTERM) and mpirun (SIGUSR2, which it passes on) to do the same.
#
# A SIGTERM to mpirun itself is no way to stop: OpenMPI first waits, as long as its patience, then
# passes it on, then waits as long again, then kills.

mnemo="${MNEMO:-$root/build/mnemo}"
config=""
run=""
ranks=0
listen=()
job_options=()   # for `mnemo coordinate`
first_options=() # for the first one, not for one that takes its place
rank_options=()  # for `mnemo train`
mpi_options=()
coordinator=0 # process numbers; 0: not running
workers=0
save_wanted=0
stop_wanted=0 # 2: at once
told=0 # who was told to stop
readonly restarts_at_most=3
readonly patience=5 # seconds that one side gets to notice that the other has ended the job
# mpirun's patience; its own default is one second, which is little to save in.
readonly grace_seconds="${MNEMO_GRACE_SECONDS:-60}"

# parse_job_option WORD [VALUE...]: takes one option, and says in `taken` how many words it was.
# shellcheck disable=SC2034  # used by those who source this
parse_job_option() {
  taken=2
  case "$1" in
    -n | --ranks)
      [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || die "$1 needs the number of ranks"
      ranks="$2"
      ;;
    --run-dir | --run)
      [[ -n "${2:-}" ]] || die "$1 needs a directory"
      run="$2"
      ;;
    --listen)
      [[ -n "${2:-}" ]] || die "$1 needs HOST:PORT"
      listen=(--listen "$2")
      ;;
    --mpi)
      [[ -n "${2:-}" ]] || die "$1 needs an option of mpirun"
      # Several words are several options: --mpi '--mca btl tcp,self'.
      read -ra words <<<"$2"
      mpi_options+=("${words[@]}")
      ;;
    -h | --help) usage && exit 0 ;;
    --no-memory-check) rank_options+=("$1") && taken=1 ;;
    --overwrite) first_options=("$1") && taken=1 ;;
    --*)
      (($# > 1)) || die "$1 needs a value; see --help and 'mnemo coordinate --help'"
      job_options+=("$1" "$2")
      ;;
    *)
      [[ -z "$config" ]] || die "one configuration only: $config or $1? see --help"
      config="$1" && taken=1
      ;;
  esac
}

check_job() {
  [[ -n "$config" ]] || die "which configuration? see --help"
  [[ -r "$config" ]] || die "there is no configuration $config"
  [[ -x "$mnemo" ]] ||
    die "no $mnemo; build first (cmake --preset release), or name it in MNEMO"
  command -v mpirun >/dev/null || die "there is no mpirun; launch/install.sh installs it"
  if [[ -z "$run" ]]; then
    run="$root/runs/$(basename "$config" .textproto)"
    say "the run's directory is $run (--run-dir names another)"
  fi
  mkdir -p "$run" || die "cannot make the run directory $run"
  run="$(realpath "$run")" # ranks may be started in another directory
}

# start_coordinator [OPTION]...
start_coordinator() {
  # Not the terminal's: its Ctrl-C would come twice.
  setsid setpriv --pdeathsig TERM "$mnemo" coordinate "$config" --run-dir "$run" \
    --workers "$ranks" "${listen[@]}" "${job_options[@]}" "$@" </dev/null &
  coordinator=$!
}

# A coordinator that ends by itself takes its address with it.
was_killed() { [[ -e "$run/coordinator.json" ]]; }

# An address that a killed one left names another process.
coordinator_serves() {
  grep -qE "\"process\": *\"?$coordinator\"?[,} ]*\$" "$run/coordinator.json" 2>/dev/null
}

await_coordinator() {
  until coordinator_serves; do
    if ! kill -0 "$coordinator" 2>/dev/null; then
      local status=0
      wait "$coordinator" || status=$?
      coordinator=0
      say "the coordinator did not come up; see above" >&2
      exit "$((status ? status : 1))"
    fi
    pause 0.05
  done
}

# Sleeps, but not through a signal.
pause() {
  sleep "$1" &
  wait $! || true
}

start_workers() {
  local options=()
  if ((EUID == 0)); then options+=(--allow-run-as-root); fi
  # So that rank 0 rewrites its progress line.
  if [[ -t 2 ]]; then options+=(-x MNEMO_TERMINAL=1); fi
  setsid setpriv --pdeathsig USR2 mpirun "${options[@]}" -n "$ranks" --bind-to none \
    --mca odls_base_sigkill_timeout "$grace_seconds" "${mpi_options[@]}" \
    "$mnemo" train --run-dir "$run" "${rank_options[@]}" </dev/null &
  workers=$!
}

# Passes on what signals asked for. The coordinator knows what the ranks do, so it is told, as soon
# as it can hear; one that was started again is told again; without one mpirun is.
pass_on() {
  if ((coordinator)) && ! coordinator_serves; then return; fi
  if ((save_wanted)); then
    save_wanted=0
    "$mnemo" save "$run" >/dev/null </dev/null &
  fi
  if ((!stop_wanted)); then return; fi
  if ((coordinator && told != coordinator)); then
    told="$coordinator"
    kill -TERM "$coordinator" 2>/dev/null || true
  elif ((!coordinator && workers && told != workers)); then
    told="$workers"
    kill -USR2 "$workers" 2>/dev/null || true
  fi
}

# A terminal that has been closed takes no more words.
ask_to_save() {
  save_wanted=1
  say "$1: saving" || true
}

ask_to_stop() {
  if ((stop_wanted)); then
    stop_wanted=2
    exit 130
  fi
  stop_wanted=1
  say "$1: saving, then ending; once more ends at once" || true
}

lives() { (($1)) && kill -0 "$1" 2>/dev/null; }

# await_end PROCESS SECONDS
await_end() {
  local ticks
  for ((ticks = 0; ticks < 10 * $2; ++ticks)); do
    lives "$1" || return 0
    sleep 0.1
  done
}

# All of the session that a process leads, without the shell's remark on it.
kill_session() {
  lives "$1" || return 0
  exec {errors}>&2 2>/dev/null
  pkill -KILL -s "$1" || true
  wait "$1" || true
  exec 2>&"$errors" {errors}>&-
}

# Whatever ends this script, nothing stays behind, and what was trained is saved unless somebody is
# in a hurry. mpirun's daemons and ranks on other hosts end when it does.
clean_up() {
  trap '' HUP INT TERM USR1
  if ((stop_wanted < 2)) && lives "$workers"; then
    stop_wanted=1
    pass_on
    await_end "$workers" "$grace_seconds"
  fi
  kill_session "$workers"
  if lives "$coordinator"; then kill -TERM "$coordinator" || true; fi
  await_end "$coordinator" 2
  kill_session "$coordinator"
}

# The coordinator has ended. If the job has not, it is started again.
replace_coordinator() {
  if ! was_killed; then
    coordinator_status="$1" gave_up="$SECONDS"
  elif ((!workers)); then
    rm -f "$run/coordinator.json" # there is nothing to come back to
  elif ((restarts == restarts_at_most)); then
    say "the coordinator died for the $((restarts + 1))th time; training goes on without one" >&2
  else
    restarts=$((restarts + 1))
    say "the coordinator died (exit code $1); restart $restarts of $restarts_at_most" >&2
    start_coordinator
  fi
}

# Waits until ranks and coordinator have ended. A job that the coordinator has given up (a rank is
# lost) has ranks that wait for each other: they get a few seconds to find out by themselves.
supervise() {
  local status workers_end=0
  while ((workers || coordinator)); do
    pass_on
    pause 0.2
    if ((workers)) && ! lives "$workers"; then
      wait "$workers" || workers_status=$?
      workers=0 workers_end="$SECONDS"
    fi
    if ((coordinator)) && ! lives "$coordinator"; then
      status=0
      wait "$coordinator" || status=$?
      coordinator=0
      replace_coordinator "$status"
    fi
    if ((workers && coordinator_status && SECONDS - gave_up > patience)); then
      kill_session "$workers"
      workers=0 workers_status="$coordinator_status"
    fi
    if ((!workers && coordinator && SECONDS - workers_end > 2 * patience)); then
      kill_session "$coordinator"
      coordinator=0
    fi
  done
}

run_job() {
  check_job
  restarts=0 workers_status=0 coordinator_status=0 gave_up=0
  trap 'ask_to_stop SIGHUP' HUP
  trap 'ask_to_stop SIGINT' INT
  trap 'ask_to_stop SIGTERM' TERM
  trap 'ask_to_save SIGUSR1' USR1
  trap clean_up EXIT
  start_coordinator "${first_options[@]}"
  await_coordinator
  start_workers
  supervise
  # Where all ranks say that all is well it is. Otherwise the coordinator's word is better than that
  # of mpirun, which may have been killed.
  if ((workers_status && coordinator_status)); then return "$coordinator_status"; fi
  return "$workers_status"
}
