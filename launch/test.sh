#!/usr/bin/env bash
# Builds and runs the tests.
#
#   launch/test.sh [--no-install] [-L LABEL]...      all tests but `long`, or those of the labels
#   launch/test.sh [--no-install] --all              what CI runs
#
#   -L LABEL       quick, full, long, or a topic: exactness, schedule, stability, learn, bad-input,
#                  threads, resume, job, hosts
#   --all          all tests but `long`; `quick` under the address and undefined-behaviour
#                  sanitizers; `threads` under the thread sanitizer; the CUDA kernels compiled
#                  where nvcc is found
#   --no-install   fail if a package is missing instead of installing it
#
# Builds lie in build/, build-asan/, build-tsan/ and build-cuda/. Ends with CTest's summary; the
# exit code is not 0 if anything failed.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

labels=()
everything=0
install_options=()
failed=()
summaries=()

# run_tests NAME DIR [CTEST_OPTION...]: keeps CTest's summary for the end.
run_tests() {
  local name="$1" dir="$2" log="$2/ctest.log"
  shift 2
  "${runner[@]}" ctest --test-dir "$dir" -j "$(nproc)" --output-on-failure --no-tests=error "$@" |
    tee "$log" || failed+=("$name")
  summaries+=("$name: $log")
}

# The sanitizers' memory layouts do not fit kernels that randomise addresses widely.
runner=(env)
if setarch "$(uname -m)" -R true 2>/dev/null; then runner=(setarch "$(uname -m)" -R); fi

# The targets behind the tests of a label, so that a sanitizer build makes nothing else. A test is
# named after its program, and one under mpirun also after its ranks: PROGRAM.4.
targets_of() {
  local dir="$1" label="$2" all
  all="$(ninja -C "$dir" -t targets all | sed -n 's/:.*//p')"
  ctest --test-dir "$dir" -N -L "^$label\$" |
    sed -n 's/\.[0-9]*$//; s/^ *Test *#[0-9]*: //p' | grep -Fx -f - <(printf '%s\n' "$all") || true
}

test_release() {
  local options=(-LE '^long$') label
  for label in "${labels[@]}"; do
    [[ "$label" == long ]] && options=()
  done
  # CTest takes -L as a regular expression; several must all match, so they are joined.
  if ((${#labels[@]} > 0)); then
    options+=(-L "^($(IFS='|' && echo "${labels[*]}"))\$")
  fi
  configure "$root/build" -DCMAKE_BUILD_TYPE=Release
  build "$root/build"
  run_tests release "$root/build" "${options[@]}"
}

# test_sanitized NAME SANITIZERS LABEL
test_sanitized() {
  local name="$1" dir="$root/build-$1" sanitizers="$2" label="$3" targets
  say "$name: label $label with -fsanitize=$sanitizers"
  configure "$dir" -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DMNEMO_SANITIZE=$sanitizers" \
    -DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-Og
  mapfile -t targets < <(targets_of "$dir" "$label")
  if build "$dir" "${targets[@]}"; then
    run_tests "$name" "$dir" -L "^$label\$" -LE '^long$'
  else
    failed+=("$name (build)")
  fi
}

test_threads() {
  # OpenBLAS is not instrumented: its own threads would look like races.
  OPENBLAS_NUM_THREADS=1 test_sanitized tsan thread threads
}

compile_cuda() {
  local nvcc
  nvcc="$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)"
  if [[ ! -x "$nvcc" ]]; then
    say "left out: the CUDA kernels are not compiled, because nvcc is not here"
    return
  fi
  say "cuda: compiling the kernels with $nvcc"
  configure "$root/build-cuda" -DCMAKE_BUILD_TYPE=Release -DMNEMO_CUDA=ON \
    "-DCMAKE_CUDA_COMPILER=$nvcc" && build "$root/build-cuda" memory_scan_check ||
    failed+=("cuda (build)")
}

# All labels that tests have.
labels_there() {
  find "$root/tests" -name CMakeLists.txt -exec cat {} + | tr '"\n' '  ' |
    grep -oE '\<LABELS( +[a-z;-]+)+' | grep -oE '\<[a-z-]+\>' | sort -u
}

main() {
  while (($# > 0)); do
    case "$1" in
      --all) everything=1 ;;
      --no-install) install_options+=("$1") ;;
      -L)
        (($# > 1)) || die "-L needs a label"
        labels+=("$2") && shift
        ;;
      -h | --help) usage && exit 0 ;;
      *) die "unknown option $1 (see --help)" ;;
    esac
    shift
  done
  if ((everything && ${#labels[@]} > 0)); then die "give either --all or -L"; fi
  local label there
  there="$(labels_there)"
  for label in "${labels[@]}"; do
    grep -qFx -- "$label" <<<"$there" ||
      die "no test has the label $label; there are: $(tr '\n' ' ' <<<"$there")"
  done

  "$root/launch/install.sh" "${install_options[@]}"
  test_release
  if ((everything)); then
    test_sanitized asan "address;undefined" quick
    test_threads
    compile_cuda
  fi

  local entry
  for entry in "${summaries[@]}"; do
    printf '\n== %s ==\n' "${entry%%: *}"
    sed -n '/tests passed/,$p' "${entry#*: }"
  done
  say "took $((SECONDS / 60)) min $((SECONDS % 60)) s"
  ((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
}

main "$@"
