#!/usr/bin/env bash
# Makes `.libtorch` point at a libtorch 2.11, the version that tch 0.24 is made for.
#
#   LIBTORCH=DIR             use this libtorch
#   PYTHON=PYTHON            the interpreter to look at and to make .venv with (default: python3)
#   LIBTORCH_KIND=cpu|cuda   what to install into .venv when none is found (default: cpu)
#
# Order: an exported LIBTORCH; a link that is already right; a Python that has torch 2.11; the PyPI wheel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=2.11
wheel=2.11.0
kind=${LIBTORCH_KIND:-cpu}
python=${PYTHON:-python3}

fail() { printf 'error: %s\n' "$1" >&2; [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2; exit 2; }

# version_of DIR: the libtorch version in DIR, empty if there is none.
version_of() {
    [ -e "$1/lib/libtorch_cpu.so" ] || return 0
    if [ -f "$1/build-version" ]; then cat "$1/build-version"
    elif [ -f "$1/version.py" ]; then sed -n "s/^__version__ = '\([^']*\)'.*/\1/p" "$1/version.py"
    fi
}
right() { case "$(version_of "$1")" in "$version".*) return 0 ;; *) return 1 ;; esac; }
# The wheel brings the CUDA library even where only what the CPU needs was installed around it; libcuda is the driver's.
has_kind() {
    [ "$kind" = cpu ] && return
    [ -e "$1/lib/libtorch_cuda.so" ] && ! ldd "$1/lib/libtorch_cuda.so" | grep -v 'libcuda\.so' | grep 'not found' >/dev/null
}

use() {
    if [ "$(readlink -f .libtorch 2>/dev/null || true)" != "$(readlink -f "$1")" ]; then
        [ ! -e .libtorch ] || [ -L .libtorch ] || fail ".libtorch is not a link" "move it away and run this again"
        ln -sfn "$1" .libtorch
    fi
    printf 'libtorch %s (%s)\n' "$(version_of "$1")" "$2"
}

case "$kind" in cpu | cuda) ;; *) fail "LIBTORCH_KIND is cpu or cuda, found $kind" ;; esac

if [ -n "${LIBTORCH:-}" ]; then
    right "$LIBTORCH" || fail "LIBTORCH=$LIBTORCH: expected libtorch $version, found '$(version_of "$LIBTORCH")'" \
        "unset LIBTORCH to have the right one installed into .venv"
    use "$(readlink -f "$LIBTORCH")" "from LIBTORCH"
    exit
fi
if right .libtorch && has_kind .libtorch; then
    use "$(readlink -f .libtorch)" "already set up"
    exit
fi
command -v "$python" >/dev/null || fail "no $python on the PATH" "install Python 3.10 or newer, or export LIBTORCH"
found=$("$python" -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")' 2>/dev/null || true)
if [ -n "$found" ] && right "$found" && has_kind "$found"; then
    use "$found" "from $python"
    exit
fi

case "$kind" in cpu) size=0.5 ;; cuda) size=2.7 ;; esac
printf 'installing libtorch %s (%s) into .venv: %s GB to download\n' "$wheel" "$kind" "$size"
[ -x .venv/bin/python ] || "$python" -m venv .venv ||
    fail "could not create .venv" "on Debian and Ubuntu: apt-get install python3-venv"
if [ "$kind" = cuda ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "torch==$wheel"
else
    # The wheel's CPU library needs only these two of its dependencies.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        "torch==$wheel" nvidia-cuda-cupti==13.0.85 nvidia-cuda-runtime==13.0.96
fi
found=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')
right "$found" || fail "the installed torch is '$(version_of "$found")', expected $version" "remove .venv and run this again"
use "$found" "in .venv, for $kind"
