#!/bin/sh
# Merging to one rank against copying the same bytes and against a plain PyTorch script, in one run on one disk.
#
#     evals/merge-speed/run.sh KINTSUGI PYTHON SCRATCH [SHAPE [RANKS]]
#
# SCRATCH needs three times the checkpoint's size. CACHE=cold (the default; needs root) empties the page cache before every
# run, so that the input comes from the disk, as a checkpoint larger than memory does; CACHE=warm reads the input first.
# Prints a line per run: what, seconds, seconds until the disk has it (`sync`), peak resident memory, processor time.
# STRATEGIES, WHAT (of: copy merge reshard hf pytorch) and ROUNDS choose what runs and how often.
set -eu
kintsugi=$1 python=$2 scratch=$3 shape=${4:-2.8b} ranks=${5:-2}
here=$(dirname "$0") cache=${CACHE:-cold}
input=$scratch/input
[ -d "$input" ] || "$kintsugi" -q synth --shape "$shape" --tensor-parallel "$ranks" --drift 0.01 -o "$input" > /dev/null
step=$input/$(cat "$input/latest")
du -sm "$step" | awk -v cache="$cache" '{ print "input", $1, "MB,", cache, "cache" }'

measure() {
    name=$1
    shift
    rm -rf "$scratch/output" "$scratch/.kintsugi-output"
    sync
    if [ "$cache" = cold ]; then echo 3 > /proc/sys/vm/drop_caches; else cat "$step"/*.pt > /dev/null; fi
    "$python" - "$name" "$@" <<'EOF'
import os, subprocess, sys, time
start = time.monotonic()
child = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
took = time.monotonic() - start
os.sync()
synced = time.monotonic() - start
print(f"{sys.argv[1]:24} {took:7.2f} s  {synced:7.2f} s  {usage.ru_maxrss // 1024:6} MB  cpu {usage.ru_utime:.1f} + {usage.ru_stime:.1f} s", flush=True)
sys.exit(status != 0)
EOF
}

for round in ${ROUNDS:-1 2}; do
    for what in ${WHAT:-copy merge reshard hf pytorch}; do
        case $what in
        copy) measure "cp -r" cp -r "$step" "$scratch/output" ;;
        merge)
            for strategy in ${STRATEGIES:-reduce-aware fold}; do
                measure "merge $strategy" "$kintsugi" -q merge "$input" -o "$scratch/output" --strategy "$strategy"
            done
            ;;
        reshard)
            measure "merge to 4 ranks" \
                "$kintsugi" -q merge "$input" -o "$scratch/output" --strategy reduce-aware --tensor-parallel 4
            ;;
        hf) measure "merge hf" "$kintsugi" -q merge "$input" -o "$scratch/output" --strategy reduce-aware --format hf ;;
        pytorch) measure "PyTorch script" "$python" "$here/straightforward.py" "$step" "$scratch/output" ;;
        esac
    done
done
rm -rf "$scratch/output"
