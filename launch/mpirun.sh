#!/usr/bin/env bash
# Trains on several hosts: a coordinator on this one, and mpirun with the ranks of a hostfile.
#
#   launch/mpirun.sh CONFIG --hostfile F [-n N] [--run-dir DIR] [OPTION]...
#
#   CONFIG            run configuration
#   --hostfile F      OpenMPI's: a line `HOST slots=RANKS` each
#   -n N              ranks; default: all slots of the hostfile
#   --run-dir DIR     where the run lies; default: runs/ with the configuration's name. All hosts
#                     have to see it, and the shards and this binary, under the same path
#   --listen H:P      the coordinator's address, which all hosts have to reach; default: a free port
#                     of all of this host's addresses. Nothing is encrypted
#   --mpi 'WORDS'     more options for mpirun, for instance --mpi '--mca btl_tcp_if_include eth0'
#   OPTION            any of `mnemo coordinate`, with its value: --shards, --eval-shards, --set, ..
#
# Signals, restarts and exit code are those of launch/local.sh.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/job.sh
source "$root/launch/job.sh"

# The ranks that a hostfile has room for: `slots=` (or `slots =`) of each line, one without it.
slots_of() {
  awk '{ sub(/#.*/, "") } NF {
    slots = 1
    if (match($0, /slots *= *[0-9]+/)) {
      slots = substr($0, RSTART, RLENGTH)
      sub(/.*= */, "", slots)
    }
    sum += slots
  } END { print sum + 0 }' "$1"
}

hostfile=""
while (($# > 0)); do
  if [[ "$1" == --hostfile ]]; then
    (($# > 1)) || die "--hostfile needs a file"
    hostfile="$2"
    shift 2
    continue
  fi
  parse_job_option "$@"
  shift "$taken"
done
[[ -n "$hostfile" ]] || die "which hosts? name a file with --hostfile; see --help"
[[ -r "$hostfile" ]] || die "there is no hostfile $hostfile"
slots="$(slots_of "$hostfile")"
((slots > 0)) || die "$hostfile names no host"
((ranks > 0)) || ranks="$slots"
((ranks <= slots)) || die "-n $ranks, but $hostfile has $slots slots"
((${#listen[@]} > 0)) || listen=(--listen 0.0.0.0:0)
mpi_options=(--hostfile "$hostfile" "${mpi_options[@]}")
run_job
