#!/usr/bin/env bash
# A job on several hosts: network namespaces with an address and a name each, joined by a bridge, and
# launch/mpirun.sh with a hostfile. Exits with 77 where namespaces are not allowed.
#
#   hosts_test.sh [HOSTS]...     2 and 4 unless named; MNEMO names the binary
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

mnemo="${MNEMO:-$root/build/mnemo}"
scratch="$(mktemp -d)"
prefix="mnemo$$"

clean_up() {
  pkill -KILL -f -- "--run-dir $scratch/" || true
  local name
  for name in switch host1 host2 host3 host4; do
    ip netns del "$prefix$name" 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap clean_up EXIT

skip() {
  printf '\n*** hosts_test SKIPPED: %s. Several hosts were NOT tested. ***\n' "$*" >&2
  exit 77
}

check_namespaces() {
  command -v ip >/dev/null || skip "there is no ip (package iproute2)"
  ip netns add "${prefix}switch" 2>"$scratch/error" ||
    skip "network namespaces are not allowed: $(cat "$scratch/error")"
  ip -n "${prefix}switch" link add bridge type bridge 2>"$scratch/error" ||
    skip "no bridge can be made: $(cat "$scratch/error")"
  unshare --uts --mount true 2>"$scratch/error" ||
    skip "host names cannot be changed: $(cat "$scratch/error")"
  ip -n "${prefix}switch" link set bridge up
}

# Four hosts, 10.77.0.1 to 4, and what takes the place of ssh between them.
make_hosts() {
  local i
  echo "127.0.0.1 localhost" >"$scratch/hosts"
  for i in 1 2 3 4; do
    ip netns add "${prefix}host$i"
    ip -n "${prefix}host$i" link add eth0 type veth peer name "port$i" netns "${prefix}switch"
    ip -n "${prefix}switch" link set "port$i" master bridge up
    ip -n "${prefix}host$i" address add "10.77.0.$i/24" dev eth0
    ip -n "${prefix}host$i" link set eth0 up
    ip -n "${prefix}host$i" link set lo up
    echo "10.77.0.$i host$i" >>"$scratch/hosts"
  done
  cat >"$scratch/on" <<END
#!/usr/bin/env bash
# on HOST COMMAND...: like ssh, the words are a line for the shell.
host="\$1"
shift
exec nsenter --net="/run/netns/$prefix\$host" unshare --uts --mount bash -c '
  hostname "\$0" && mount --bind "$scratch/hosts" /etc/hosts && exec bash -c "\$*"' "\$host" "\$@"
END
  chmod +x "$scratch/on"
}

losses() { grep -oE '"(step|loss)": *[0-9.e+-]+' "$1/metrics.jsonl"; }

# One host, as a measure for several.
run_alone() {
  MNEMO="$mnemo" "$root/launch/local.sh" "$scratch/job.textproto" -n 4 --run-dir "$scratch/alone" \
    --shards "$scratch/shards" >"$scratch/alone.log" 2>&1 ||
    die "one host: $(cat "$scratch/alone.log")"
}

# start_on HOSTS RUN: four ranks on as many hosts, in the background; sets `job`.
start_on() {
  local hosts="$1" run="$2" i
  for ((i = 1; i <= hosts; ++i)); do
    echo "host$i slots=$((4 / hosts))"
  done >"$scratch/hostfile$hosts"
  "$scratch/on" host1 MNEMO="$mnemo" "$root/launch/mpirun.sh" "$scratch/job.textproto" \
    --hostfile "$scratch/hostfile$hosts" --run-dir "$run" --shards "$scratch/shards" --mpi \
    "'--mca plm_rsh_agent $scratch/on --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0'" \
    --mpi "'--mca btl_vader_single_copy_mechanism none'" >"$scratch/job.log" 2>&1 &
  job=$!
}

# run_on HOSTS: each host has its share of the ranks, and the losses are those of one host.
run_on() {
  local hosts="$1" run="$scratch/hosts$1" i job
  start_on "$hosts" "$run"
  local ticks=600 seen=""
  while kill -0 "$job" 2>/dev/null && ((ticks-- > 0)); do
    "$scratch/on" host1 "$mnemo" status "$run" >"$scratch/status" 2>/dev/null || true
    if grep -q TRAINING "$scratch/status"; then seen="$(cat "$scratch/status")"; fi
    sleep 0.1
  done
  wait "$job" || die "$hosts hosts: $(cat "$scratch/job.log")"
  for ((i = 1; i <= hosts; ++i)); do
    (($(grep -c "\<host$i\>" <<<"$seen") == 4 / hosts)) ||
      die "host$i does not have its $((4 / hosts)) ranks: $seen"
  done
  diff <(losses "$scratch/alone") <(losses "$run") >&2 ||
    die "$hosts hosts: losses differ from those of one host"
  say "$hosts hosts: $((4 / hosts)) ranks on each, the losses of one host"
}

# A run that is stopped on two hosts and goes on, on four, from what those have saved.
moved() {
  local run="$scratch/moved" job
  start_on 2 "$run"
  until (($(wc -l 2>/dev/null <"$run/metrics.jsonl") >= 15)); do
    kill -0 "$job" 2>/dev/null || die "ended before step 15: $(cat "$scratch/job.log")"
    sleep 0.05
  done 2>/dev/null
  "$scratch/on" host1 "$mnemo" stop "$run" >/dev/null || die "cannot be stopped"
  wait "$job" || die "stopped on two hosts: $(cat "$scratch/job.log")"
  (($(wc -l <"$run/metrics.jsonl") < 60)) || die "was not stopped: it had ended"
  start_on 4 "$run"
  wait "$job" || die "going on, on four hosts: $(cat "$scratch/job.log")"
  grep -q 'going on after step' "$scratch/job.log" || die "four hosts began again"
  diff <(losses "$scratch/alone") <(losses "$run") >&2 || die "moved: losses differ from those of one host"
  say "from 2 hosts to 4: the losses of one host"
}

main() {
  check_namespaces
  make_hosts
  "$mnemo" --log-level warning data prepare "$root/docs" --out "$scratch/shards" --tokenizer bytes \
    >/dev/null
  cat >"$scratch/job.textproto" <<'END'
model { block: LMM layers: 2 width: 32 heads: 2 memory { depth: 1 chunk: 16 clamp: 1 } }
train {
  steps: 60 sequence_length: 1024 slice: 64 micro_batches: 2
  optimizer { learning_rate: 1e-3 }
}
parallel { dp: 2 sp: 2 }
execution { threads: 1 }
END
  run_alone
  (($# > 0)) || set -- 2 4
  local hosts
  for hosts in "$@"; do
    run_on "$hosts"
  done
  moved
}

main "$@"
