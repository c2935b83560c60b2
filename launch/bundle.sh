#!/usr/bin/env bash
# Makes a bundle that runs on other Linux machines: programs, the libraries that a machine may lack,
# configurations and the scripts of launch/.
#
#   launch/bundle.sh [--build DIR] [--out FILE.tar.xz]
#
#   --build DIR   what to pack: mnemo and the programs for GPUs, as far as they are built there
#                 (default: build-cuda)
#   --out FILE    default: mnemo-bundle.tar.xz
#
# Unpack it anywhere and call `./run.sh mnemo ..` in it. docs/operations.md says what it needs there.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# What a machine for CUDA jobs brings along, as patterns of sonames; everything else that the
# programs load is packed.
from_the_machine=(
  # glibc with its loader, and the C++ runtime: mixing them with the machine's own breaks its other
  # libraries. They have to be as new as those here.
  'ld-linux*' 'libc.so.*' 'libm.so.*' 'libdl.so.*' 'librt.so.*' 'libpthread.so.*' 'libresolv.so.*'
  'libstdc++.so.*' 'libgcc_s.so.*' 'linux-vdso.so.*'
  # The driver and the CUDA libraries, hundreds of MB.
  'libcuda.so.*' 'libnvidia*' 'libcublas*' 'libcudnn*' 'libnccl.so.*' 'libnvrtc*'
  # MPI knows the machine's network; Open MPI 4 with what it loads itself.
  'libmpi.so.*' 'libopen-rte.so.*' 'libopen-pal.so.*' 'libhwloc.so.*' 'libevent*' 'libudev.so.*'
  # Packages of the machine, of the same soname since 2022: HDF5, protobuf 3.21, OpenBLAS.
  'libhdf5*' 'libprotobuf.so.*' 'libopenblas.so.*' 'libgfortran.so.*' 'libquadmath.so.*'
)
# Loaded by HDF5 alone, so they come with it.
with_hdf5=(
  'libcurl.so.*' 'libsz.so.*' 'libaec.so.*' 'libnghttp2*' 'libidn2*' 'librtmp*' 'libssh2*'
  'libpsl*' 'libgssapi*' 'libldap*' 'liblber*' 'libzstd*' 'libbrotli*' 'libunistring*' 'libgnutls*'
  'libhogweed*' 'libnettle*' 'libgmp*' 'libkrb5*' 'libk5crypto*' 'libcom_err*' 'libsasl2*'
  'libp11-kit*' 'libtasn1*' 'libkeyutils*' 'libffi*'
)
most_bytes=$((50 << 20))

comes_with_the_machine() {
  local pattern
  for pattern in "${from_the_machine[@]}" "${with_hdf5[@]}"; do
    # shellcheck disable=SC2053  # a pattern
    [[ "$1" == $pattern ]] && return
  done
  return 1
}

# What a program loads, directly or not: soname and file, a line each.
libraries_of() { ldd "$1" | sed -n 's/^\t\([^ ]*\) => \(\/[^ ]*\) .*/\1 \2/p; s/^\t\([^ ]*\) => not found.*/\1 -/p'; }

# cuda_layout_test needs no GPU.
programs() {
  local name
  for name in mnemo tests/bench/memory_scan/memory_scan_check; do
    if [[ -x "$build/$name" ]]; then echo "$build/$name"; fi
  done
  find "$build/tests" -type f -executable \( -name 'cuda_*_test' -o -name '*_gpu_test' \) \
    ! -name cuda_layout_test 2>/dev/null | sort
}

pack_program() {
  local soname file
  install -m 755 "$1" "$stage/bin/"
  strip --strip-debug "$stage/bin/$(basename "$1")"
  while read -r soname file; do
    if comes_with_the_machine "$soname" || [[ -e "$stage/lib/$soname" ]]; then continue; fi
    [[ "$file" != - ]] || die "$1 needs $soname, which is not here either"
    install -m 644 "$file" "$stage/lib/$soname"
  done < <(libraries_of "$1")
}

# needs NAME: the newest version of a library's symbols that anything packed asks for.
needs() {
  objdump -T "$stage"/bin/* "$stage"/lib/* | grep -oE "\<$1_[0-9.]+" | sort -uV | tail -n 1
}

write_run_script() {
  cat >"$stage/run.sh" <<'RUN'
#!/usr/bin/env bash
# run.sh PROGRAM [ARGUMENT]...: a program of bin/ or a script of launch/, with the libraries of this
# folder. `run.sh` alone lists the programs.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if (($# == 0)); then
  (cd "$here" && ls bin launch/*.sh)
  exit
fi
export MNEMO="$here/bin/mnemo" MNEMO_BUNDLE="$here"
export MNEMO_OUTER_LIBRARY_PATH="${LD_LIBRARY_PATH:-}" # for programs that bring their own
paths="$here/lib"
# CUDA's libraries, where the loader does not find them by itself: next to the toolkit, or in
# packages of Python.
for library in libcublasLt.so.13 libcudnn.so.9; do
  if ldconfig -p 2>/dev/null | grep -qF "$library"; then continue; fi
  for folder in /usr/local/cuda/lib64 /usr/local/cuda*/lib64 /usr/local/cuda/targets/*/lib \
    /usr/lib/x86_64-linux-gnu /opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib \
    /usr/lib/python3*/site-packages/nvidia/*/lib /usr/local/lib/python3*/*-packages/nvidia/*/lib; do
    if [[ -e "$folder/$library" ]]; then
      paths="$paths:$folder"
      break
    fi
  done
done
export LD_LIBRARY_PATH="$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
program="$1"
shift
if [[ "$program" == launch/* ]]; then exec bash "$here/$program" "$@"; fi
if [[ ! -x "$here/bin/$program" ]]; then
  echo "run.sh: error: no program $program; there are: $(cd "$here/bin" && echo *)" >&2
  exit 1
fi
exec "$here/bin/$program" "$@"
RUN
  chmod 755 "$stage/run.sh"
}

main() {
  build="$root/build-cuda"
  local out="$PWD/mnemo-bundle.tar.xz"
  while (($# > 0)); do
    [[ "$1" == -h || "$1" == --help ]] && usage && exit 0
    case "$1" in
      --build | --out) ;;
      *) die "unknown option $1 (see --help)" ;;
    esac
    (($# > 1)) || die "$1 needs a value (see --help)"
    case "$1" in
      --build) build="$(cd "$2" 2>/dev/null && pwd)" || die "there is no build folder $2" ;;
      --out) out="$2" ;;
    esac
    shift 2
  done
  [[ -f "$build/CMakeCache.txt" ]] || die "$build is no build folder; cmake --preset cuda makes one"
  if grep -q '^MNEMO_NATIVE:BOOL=ON' "$build/CMakeCache.txt"; then
    die "$build is tuned to this machine's processor; configure it with -DMNEMO_NATIVE=OFF"
  fi
  local list
  mapfile -t list < <(programs)
  ((${#list[@]} > 0)) || die "nothing to pack in $build; build mnemo or the tests for GPUs there"

  scratch="$(mktemp -d)"
  trap 'rm -rf "$scratch"' EXIT
  stage="$scratch/mnemo-bundle"
  mkdir -p "$stage/bin" "$stage/lib" "$stage/launch" "$stage/tests"
  local program
  for program in "${list[@]}"; do pack_program "$program"; done
  cp -r "$root/configs" "$stage/"
  cp -r "$root/tests/bench" "$stage/tests/"
  find "$root/launch" -name '*.sh' ! -name test.sh ! -name install.sh ! -name bundle.sh \
    -exec cp {} "$stage/launch/" \;
  write_run_script
  {
    [[ -x "$stage/bin/mnemo" ]] && LD_LIBRARY_PATH="$stage/lib" "$stage/bin/mnemo" --version
    echo "needs $(needs GLIBC), $(needs GLIBCXX)"
  } >"$stage/VERSION" || true
  # The programs hold the same kernels: a window larger than any of them packs those once.
  tar -C "$scratch" -c mnemo-bundle | xz --lzma2=preset=2,dict=64MiB >"$out"
  local bytes
  bytes="$(stat -c %s "$out")"
  say "$out: $((bytes >> 20)) MiB; $(tail -n 1 "$stage/VERSION"); $(basename -a "${list[@]}" |
    tr '\n' ' ')and $(find "$stage/lib" -type f | wc -l) libraries"
  ((bytes <= most_bytes)) || die "that is more than $((most_bytes >> 20)) MiB"
}

main "$@"
