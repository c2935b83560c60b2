#!/usr/bin/env bash
# Installs the Debian 12 packages that building and testing need, as root or through sudo.
#
#   launch/install.sh [--no-install] [--with PACKAGE]...
#
#   --no-install     install nothing: list what is missing and fail if anything is
#   --with PACKAGE   this one too
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(
  g++ cmake ninja-build pkg-config git procps iproute2 strace xz-utils
  libabsl-dev libcli11-dev libfmt-dev libspdlog-dev nlohmann-json3-dev
  protobuf-compiler libprotobuf-dev protobuf-compiler-grpc libgrpc++-dev
  libhdf5-dev libopenblas-dev libsentencepiece-dev libxxhash-dev
  libopenmpi-dev openmpi-bin
  libgtest-dev libgmock-dev libboost-context-dev python3-numpy python3-h5py
)

installed() {
  [[ "$(dpkg-query -W -f='${Status}' "$1" 2>/dev/null)" == "install ok installed" ]]
}

main() {
  local may_install=1
  while (($# > 0)); do
    case "$1" in
      --no-install) may_install=0 ;;
      --with)
        [[ -n "${2:-}" ]] || die "--with needs a package"
        packages+=("$2")
        shift
        ;;
      -h | --help) usage && exit 0 ;;
      *) die "unknown option $1 (see --help)" ;;
    esac
    shift
  done
  command -v dpkg-query >/dev/null ||
    die "this is not Debian; install what these hold, then build with CMake: ${packages[*]}"

  local missing=() package
  for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say "nothing to do, all ${#packages[@]} packages are here"
    return
  fi

  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null && as_root=(sudo) || may_install=0
  fi
  if ((!may_install)); then
    say "missing packages: ${missing[*]}"
    die "install them as root: apt-get update && \
apt-get install --no-install-recommends ${missing[*]}"
  fi
  say "installing: ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}

main "$@"
