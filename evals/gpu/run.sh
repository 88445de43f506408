#!/bin/bash
# The first run on a machine with an NVIDIA GPU, and every later one: at most ten minutes, nothing is fetched, no step stops the ones after
# it. README.md beside this says what to bring.
#
#     evals/gpu/run.sh [KIT]        KIT (.gpu): kintsugi, lambada_test.jsonl, 20B_tokenizer.json, checkpoints.tar.xz, as pack.sh makes it
#
# Everything is appended to $OUT/log.txt as it happens; reports go to $OUT/reports.tgz after every step, so that a cut loses the step at hand
# alone. Variables: OUT (/tmp/out), PYTHON (python3, with torch 2.11 for CUDA), WORK (a memory disk is made), BUDGET (560: seconds after which
# no step begins), SHAPE (20b) and SMALL (410m), LIMIT (all passages), PREFIX (what kintsugi and Python run under, such as the fake GPU).
set -u
here=$(cd "$(dirname "$0")" && pwd)
kit=$(cd "${1:-.gpu}" && pwd) || exit 2
out=${OUT:-/tmp/out} shape=${SHAPE:-20b} small=${SMALL:-410m} budget=${BUDGET:-560} python=${PYTHON:-python3}
read -ra prefix <<< "${PREFIX:-}"
mkdir -p "$out"
exec > >(tee -a "$out/log.txt") 2>&1
data=$kit/lambada_test.jsonl tokenizer=$kit/20B_tokenizer.json
began=$SECONDS
now() { echo $((SECONDS - began)); }

work=${WORK:-/tmp/kintsugi-ram}
mkdir -p "$work"
[ -n "${WORK:-}" ] || mountpoint -q "$work" || mount -t tmpfs -o size=72g none "$work" || echo "no memory disk: checkpoints go to the disk"
rm -rf "$work/reports"
mkdir -p "$work/reports"
cp "$kit/kintsugi" "$work/kintsugi"
chmod +x "$work/kintsugi"
kintsugi=("${prefix[@]}" "$work/kintsugi")
py=("${prefix[@]}" "$python")
torch=$("$python" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])') # without importing it
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# step NAME SECONDS COMMAND…: at most so long, never the end of the script
step() {
    local name=$1 most=$2
    shift 2
    if [ "$(now)" -gt "$budget" ]; then
        echo "== $name: left out, $(now) s are over"
        return
    fi
    echo "== $name (at $(now) s)"
    timeout -k 5 "$most" "$@"
    echo "== $name: exit $? at $(now) s"
    (cd "$work/reports" && find . -name '*.json' -print0 | tar czf "$out/reports.tgz.part" --null -T - && mv "$out/reports.tgz.part" "$out/reports.tgz")
}

# ---- what this machine is (5 s)
nvidia-smi --query-gpu=name,memory.total,memory.free,driver_version,pcie.link.gen.current,pcie.link.width.current,clocks.sm,power.limit --format=csv,noheader
nproc
free -g | sed -n 2p
df -h / "$work" | sed 1d
ulimit -l
env | grep -E '^(TORCH|CUDA|NVIDIA|CUBLAS|LD_LIB)'

# ---- the big checkpoint is written meanwhile (10 to 15 s on 16 cores into memory, 41 GB)
[ -d "$work/$shape" ] || (time "$work/kintsugi" -q synth --shape "$shape" --drift 0.01 -o "$work/$shape.part" && mv "$work/$shape.part" "$work/$shape") > "$work/synth.txt" 2>&1 &
synth=$!

# ---- right or wrong (60 s): from here on it is known whether anything runs at all
step doctor 60 "${kintsugi[@]}" doctor
tar -C "$work" -xJf "$kit/checkpoints.tar.xz"
step against-gpt-neox 150 "$python" "$here/against_reference.py" "$work/checkpoints" cuda:0 f32,f16,bf16 "$work/reference" 6 "${kintsugi[@]}"
wait $synth
cat "$work/synth.txt"
du -sh "$work/$shape"

# ---- how fast (5 minutes)
step where-time-goes 60 "${py[@]}" "$here/where_time_goes.py"
step ceiling 60 bash -c '"$@" > "$0"; cat "$0"' "$work/reports/ceiling.json" "${py[@]}" "$here/ceiling.py"
evaluate() { # name seconds command checkpoint options…
    local name=$1 most=$2 command=$3 checkpoint=$4 report=$work/reports/$1/report.json
    shift 4
    # All passages in one piece of the journal, as far as memory has room.
    step "$name" "$most" bash -c '"$@" > "$0"' "$work/reports/$name.txt" "${kintsugi[@]}" -q "$command" "$checkpoint" --data "$data" \
        --tokenizer "$tokenizer" --device cuda:0 --restart --slice-tokens 10000000 --output-dir "$work/reports/$name" ${LIMIT:+--limit "$LIMIT"} "$@"
    [ -e "$report" ] && "$python" "$here/summary.py" "$report" "$work/reports/ceiling.json" "$(basename "$checkpoint")"
}
evaluate "$shape-eval" 120 eval "$work/$shape" --dtype f16
evaluate "$shape-compare" 300 compare "$work/$shape" --dtype f16 --no-noise-floor --strategy zeroth --strategy mean --strategy reduce-aware --strategy fold
evaluate "$shape-eval-again" 90 eval "$work/$shape" --dtype f16
[ -n "${WORK:-}" ] || rm -rf "${work:?}/$shape"

# ---- a small model, sameness, too little memory (60 s)
step "synth-$small" 60 bash -c '[ -d "$1" ] || "$2" -q synth --shape "$0" --drift 0.01 -o "$1"' "$small" "$work/$small" "$work/kintsugi"
evaluate "$small-eval" 60 eval "$work/$small" --dtype f16
evaluate "$small-eval-again" 60 eval "$work/$small" --dtype f16
step same-bits 10 bash -c 'cmp "$0-eval/samples/baseline.jsonl" "$0-eval-again/samples/baseline.jsonl" && echo "twice the same bits"' "$work/reports/$small"
evaluate "$small-f32" 60 eval "$work/$small" --dtype f32
# All but 1.9 GB is taken by another process: chunks have to be halved.
hold='import time, torch; free, _ = torch.cuda.mem_get_info(); held = torch.empty(max(free - (1900 << 20), 0), dtype=torch.uint8, device="cuda"); print("held", flush=True); time.sleep(80)'
if [ "$(now)" -le "$budget" ]; then
    "${py[@]}" -c "$hold" > "$work/held.txt" 2>&1 &
    holder=$!
    for _ in $(seq 100); do grep -q held "$work/held.txt" && break || sleep 0.2; done
    evaluate little-memory 70 eval "$work/$small" --dtype f16 --memory-budget 800MiB --chunk-tokens 65536
    kill $holder
    wait $holder 2> /dev/null
fi
echo "== done at $(now) s"
sleep 1 # for tee
