#!/usr/bin/env bash
# Trains on this machine with several ranks: a coordinator, and mpirun with N ranks.
#
#   launch/local.sh CONFIG -n N [--run-dir DIR] [OPTION]...
#
#   CONFIG            run configuration, for instance configs/tiny_mac.textproto
#   -n N              ranks; the configuration's parallel {} or the planner lays them out
#   --run-dir DIR     where the run lies; default: runs/ with the configuration's name. One that
#                     holds a checkpoint goes on from there
#   --listen H:P      the coordinator's address; default: a free port of the loopback
#   --mpi 'WORDS'     more options for mpirun
#   OPTION            any of `mnemo coordinate`, with its value: --shards, --eval-shards, --set, ..
#
# Ctrl-C and SIGTERM save and end with 0, SIGUSR1 saves and goes on; `mnemo status|save|stop RUN` do
# the same from elsewhere. A coordinator that dies is started again, up to 3 times. The exit code is
# the job's. MNEMO names another binary than build/mnemo; MNEMO_GRACE_SECONDS is how long ranks may
# take to save where they cannot be asked twice (60).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/job.sh
source "$root/launch/job.sh"

while (($# > 0)); do
  parse_job_option "$@"
  shift "$taken"
done
((ranks > 0)) || die "how many ranks? name them with -n N; see --help"
# More ranks than cores are fine. Containers may forbid ranks to read each other's memory; a job on
# one machine needs no remote shell.
mpi_options=(--oversubscribe --mca btl_vader_single_copy_mechanism none --mca plm isolated
  "${mpi_options[@]}")
run_job
