#!/bin/sh
# Runs fuzz targets, one after the other, until each has been executed EXECUTIONS times; stops at the first finding.
#   fuzz/run.sh [TARGET...]
# `cargo fuzz build -s none` (RUSTC_BOOTSTRAP=1 where there is no nightly) must have come before; the Makefile sees to that.
# What is interesting goes to fuzz/found/TARGET, an input that fails to fuzz/artifacts/TARGET.
set -eu
cd "$(dirname "$0")"
executions=${EXECUTIONS:-1000000}
seconds=${SECONDS_A_PIECE:-50}
targets=${*:-archive certificate config gates hugging_face megatron megatron_args passages pickle report safetensors samples strategy task tokenizer}
binaries=$(ls -d target/*-unknown-linux-gnu/release | head -1)
export LD_LIBRARY_PATH="${LIBTORCH:-../.libtorch}/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in $targets; do
    mkdir -p "found/$target" "artifacts/$target"
    regressions=
    [ ! -d "regressions/$target" ] || regressions="regressions/$target"
    done=0 pieces=0 rss=0
    # In pieces, so that a machine that is shared has its turn.
    while [ "$done" -lt "$executions" ]; do
        # shellcheck disable=SC2086
        ${RUN:-} "$binaries/$target" "found/$target" "corpus/$target" $regressions \
            -runs=$((executions - done)) -max_total_time="$seconds" -max_len=16384 -timeout=20 -rss_limit_mb=1024 \
            -print_final_stats=1 -verbosity=0 -artifact_prefix="artifacts/$target/" >"$log" 2>&1 ||
            { tail -40 "$log"; echo "$target: found something after $done executions"; exit 1; }
        units=$(awk '/number_of_executed_units/ { print $2 }' "$log")
        peak=$(awk '/peak_rss_mb/ { print $2 }' "$log")
        done=$((done + units)) pieces=$((pieces + 1))
        [ "$peak" -le "$rss" ] || rss=$peak
    done
    echo "$target: $done executions in $pieces pieces, no crash, no hang, peak rss $rss MB"
done
