#!/bin/bash
# run.sh BUILT REPORT.json COMMAND…: runs COMMAND on the fake GPU that build.sh put into BUILT; what it did goes to REPORT.json.
# FAKE_GPUS (1), FAKE_MEM_GB (78), FAKE_SM (90), FAKE_DRIVER (13000), FAKE_CUBLAS_REFUSES (0) and FAKE_TRACE change what it is.
# Numbers that come out mean nothing: kernels are not run. Exit code 99: something was done that a real GPU refuses.
set -eu
built=$(cd "$1" && pwd)
export FAKE_REPORT=$2
shift 2
export LD_LIBRARY_PATH=$built:$(cat "$built/site")/torch/lib
exec env LD_PRELOAD="$built/libfake.so:$built/device_file.so" "$@"
