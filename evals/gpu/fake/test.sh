#!/bin/bash
# test.sh KINTSUGI [OPTIONS OF test.py]: builds the fake GPU and runs the tests on it. KINTSUGI_CUDA_PYTHON names a Python that has the
# CUDA wheel of torch 2.11; without it one is set up in .scratch/cuda-host (2.7 GB to download, 5 GB on the disk).
set -eu
here=$(cd "$(dirname "$0")" && pwd) kintsugi=$1
shift
scratch=$here/../../../.scratch/cuda-host
python=${KINTSUGI_CUDA_PYTHON:-}
if [ -z "$python" ]; then
    python=$scratch/venv/bin/python
    if ! [ -e "$scratch/complete" ]; then
        "${PYTHON:-python3}" -m venv "$scratch/venv"
        "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir torch==2.11.0 numpy
        touch "$scratch/complete"
    fi
fi
"$here/build.sh" "$python" "$scratch/built"
exec "$python" "$here/test.py" "$kintsugi" "$scratch/built" --work "$scratch/work" "$@"
