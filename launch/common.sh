# shellcheck shell=bash
# What the scripts of this folder share. To be sourced; sets `root`, the top of the source tree.

# shellcheck disable=SC2034  # used by those who source this
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*"; }
die() {
  printf '%s: error: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

# The comment at the top of a script is its help.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# Compilers to run at once: a core and 1.5 GiB of memory each.
jobs_at_once() {
  local cores kib
  cores="$(nproc)"
  kib="$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
  local by_memory=$((${kib:-0} / 1572864))
  if ((by_memory < 1)); then by_memory=1; fi
  echo $((cores < by_memory ? cores : by_memory))
}

# number_after PATTERN FILE: the first number that follows what a sed pattern matches.
number_after() { sed -n "/$1 *[0-9]/{s/.*$1 *\([0-9][0-9.]*\).*/\1/p;q}" "$2"; }

# configure DIR [CMAKE_OPTION...]: a new folder will compile several sources at once.
configure() {
  local dir="$1"
  shift
  mkdir -p "$dir"
  if [[ ! -e "$dir/CMakeCache.txt" ]]; then set -- -DCMAKE_UNITY_BUILD=ON "$@"; fi
  cmake -S "$root" -B "$dir" -G Ninja "$@" >"$dir/configure.log" 2>&1 || {
    cat "$dir/configure.log" >&2
    say "configuring $dir failed, see above; a build folder of other settings can be removed" >&2
    return 1
  }
}

# build DIR [TARGET...]: all targets if none is named.
build() {
  local dir="$1"
  shift
  cmake --build "$dir" -j "$(jobs_at_once)" ${1:+--target "$@"}
}
