#!/usr/bin/env bash
# Builds and runs the tests.
#
#   launch/test.sh [--no-install] [-L LABEL]...      all tests but `long`, or those of the labels
#   launch/test.sh [--no-install] --all              what CI runs
#
#   -L LABEL       quick, full, long, or a topic: exactness, schedule, stability, learn, bad-input,
#                  threads, resume, crash, corrupt, job, hosts, cuda
#                  `cuda` needs a GPU and the CUDA toolkit, and is never run without being named
#   --all          all tests but `long`; `quick` under the address and undefined-behaviour
#                  sanitizers; `threads` under the thread sanitizer; `cuda` on a CPU in the place
#                  of a GPU (tests/simt); the CUDA backend and its tests compiled where nvcc is
#                  found
#   --no-install   fail if a package is missing instead of installing it
#
# Builds lie in build/, build-asan/, build-tsan/, build-simt/ and build-cuda/. Ends with CTest's summary; the
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
  local options=(-LE '^(long|cuda)$') label
  for label in "${labels[@]}"; do
    [[ "$label" == long ]] && options=(-LE '^cuda$')
  done
  # CTest takes -L as a regular expression; several must all match, so they are joined.
  if ((${#labels[@]} > 0)); then
    options+=(-L "^($(IFS='|' && echo "${labels[*]}"))\$")
  fi
  configure "$root/build" -DCMAKE_BUILD_TYPE=Release
  build "$root/build"
  run_tests release "$root/build" "${options[@]}"
}

# test_sanitized NAME SANITIZERS LABEL [CMAKE_OPTION...]
test_sanitized() {
  local name="$1" dir="$root/build-$1" sanitizers="$2" label="$3" targets
  shift 3
  say "$name: label $label with -fsanitize=$sanitizers"
  configure "$dir" -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DMNEMO_SANITIZE=$sanitizers" \
    -DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-Og "$@"
  mapfile -t targets < <(targets_of "$dir" "$label")
  if build "$dir" "${targets[@]}"; then
    run_tests "$name" "$dir" -L "^$label\$" -LE '^long$'
  else
    failed+=("$name (build)")
  fi
}

test_threads() {
  # OpenBLAS is not instrumented: its own threads would look like races.
  # Here every file is compiled by itself, so that each is seen to include what it needs.
  OPENBLAS_NUM_THREADS=1 test_sanitized tsan thread threads -DCMAKE_UNITY_BUILD=OFF
}

# The CUDA backend on a CPU.
test_emulated() {
  local dir="$root/build-simt" targets
  say "simt: label cuda on a CPU in the place of a GPU"
  configure "$dir" -DCMAKE_BUILD_TYPE=Release -DMNEMO_CUDA=EMULATED
  mapfile -t targets < <(targets_of "$dir" cuda)
  if build "$dir" "${targets[@]}"; then
    run_tests simt "$dir" -L '^cuda$'
  else
    failed+=("simt (build)")
  fi
}

# What needs a GPU, without running it.
build_cuda() {
  local dir="$root/build-cuda" targets
  configure "$dir" -DCMAKE_BUILD_TYPE=Release -DMNEMO_CUDA=ON -DMNEMO_NATIVE=OFF \
    "-DCMAKE_CUDA_COMPILER=$1" || return
  mapfile -t targets < <(targets_of "$dir" cuda)
  build "$dir" memory_scan_check "${targets[@]}"
}

find_nvcc() { command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null; }

compile_cuda() {
  local nvcc
  if ! nvcc="$(find_nvcc)"; then
    say "left out: the CUDA backend is not compiled, because nvcc is not here"
    return
  fi
  say "cuda: compiling the backend and its tests with $nvcc"
  build_cuda "$nvcc" || failed+=("cuda (build)")
}

test_cuda() {
  local nvcc
  nvidia-smi >/dev/null 2>&1 || die "the tests of label cuda need a GPU, and nvidia-smi shows none"
  nvcc="$(find_nvcc)" || die "the tests of label cuda need nvcc, of the CUDA toolkit"
  if build_cuda "$nvcc"; then
    run_tests cuda "$root/build-cuda" -L '^cuda$'
  else
    failed+=("cuda (build)")
  fi
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
  local on_gpu=0 others=()
  for label in "${labels[@]}"; do
    if [[ "$label" == cuda ]]; then on_gpu=1; else others+=("$label"); fi
  done
  if ((on_gpu)); then test_cuda; fi
  labels=("${others[@]}")
  if ((!on_gpu || ${#labels[@]} > 0)); then test_release; fi
  if ((everything)); then
    test_sanitized asan "address;undefined" quick
    test_threads
    test_emulated
    compile_cuda
  fi

  say "took $((SECONDS / 60)) min $((SECONDS % 60)) s"
  local entry
  for entry in "${summaries[@]}"; do
    printf '\n== %s ==\n' "${entry%%: *}"
    sed -n '/tests passed/,$p' "${entry#*: }"
  done
  ((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
}

main "$@"
