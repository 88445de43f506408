#!/usr/bin/env bash
# Makes dist/kintsugi_merge-*.whl: `kintsugi`, without libtorch, and `kintsugi-libtorch`, which is target/release/kintsugi with
# a RUNPATH that finds the torch of the environment the wheel is installed in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. packaging/common.sh

build_light
rm -rf "$work/wheel" && mkdir -p "$work/wheel" dist
other=$work/wheel/kintsugi-libtorch
strip -o "$other" "$target/release/kintsugi"
patchelf --set-rpath "$("$python" packaging/wheel.py runpath)" "$other"
"$python" packaging/licences.py >"$work/wheel/THIRD-PARTY-LICENSES.txt"
rm -f dist/*.whl
"$python" packaging/wheel.py assemble "$work"/light/*.whl "$other" "$work/wheel/THIRD-PARTY-LICENSES.txt" dist
"$python" packaging/wheel.py check dist/*.whl
write_checksums
