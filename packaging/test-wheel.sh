#!/usr/bin/env bash
# Installs dist/*.whl in environments of every kind and runs it there. PYTHONS: the interpreters, by default one of each version
# from 3.10 to 3.14 that is on the PATH or pyenv's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. packaging/common.sh

"$python" packaging/wheel.py check dist/*.whl
if [ -z "${PYTHONS:-}" ]; then
    for minor in 10 11 12 13 14; do
        for found in "$(command -v "python3.$minor")" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"3.$minor".*/bin/python3; do
            if "$found" -c 'import venv' 2>/dev/null; then PYTHONS="${PYTHONS:-} $found" && continue 2; fi
        done
        printf 'Python 3.%s is not here\n' "$minor" >&2
    done
fi
set_up_tools
# shellcheck disable=SC2086
"$python" packaging/test_installed.py dist/*.whl "${LIBTORCH:-.libtorch}" "$tools/uv" $PYTHONS
