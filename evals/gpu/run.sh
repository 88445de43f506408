#!/bin/sh
# The GPU measurements, on a machine with one NVIDIA GPU, a Python with torch 2.11 (CUDA), and this program built:
#
#     evals/gpu/run.sh LAMBADA_TEST.jsonl 20B_TOKENIZER.json [OUT]
#
# 1. the ceiling: float16 matrix products at the 20b shape's sizes;
# 2. 20b shape (44 layers, hidden 6144, 2 ranks, float16, random weights, 41 GB written here), all passages: the unmerged model
#    alone, then the unmerged model and four merges, each with its split into reading, merging and computing;
# 3. 410m and 1b shapes beside transformers + lm-evaluation-harness, if that Python has them.
#
# KINTSUGI, PYTHON and WORK (where checkpoints go) can be set. Raw numbers go to OUT, a summary to stdout.
set -eu
data=$1 tokenizer=$2 out=${3:-.scratch/gpu}
here=$(cd "$(dirname "$0")" && pwd)
kintsugi=${KINTSUGI:-$here/../../target/release/kintsugi}
python=${PYTHON:-python3}
work=${WORK:-.scratch/gpu}
mkdir -p "$out" "$work"
LD_LIBRARY_PATH=$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/gpu.txt"
"$kintsugi" doctor | tee "$out/doctor.txt"
"$python" "$here/ceiling.py" | tee "$out/ceiling.json"

evaluate() { # name command checkpoint options…
    name=$1 command=$2 checkpoint=$3
    shift 3
    "$kintsugi" -q "$command" "$checkpoint" --data "$data" --tokenizer "$tokenizer" --device cuda:0 --restart \
        --output-dir "$out/$name" "$@" > "$out/$name.txt"
    "$python" "$here/summary.py" "$out/$name/report.json" "$out/ceiling.json"
}

[ -d "$work/20b" ] || "$kintsugi" -q synth --shape 20b --drift 0.01 -o "$work/20b"
# The first reading is from the disk, the others from the page cache as far as it is large enough.
evaluate 20b-eval eval "$work/20b" --dtype f16
evaluate 20b-eval-again eval "$work/20b" --dtype f16
evaluate 20b-compare compare "$work/20b" --dtype f16 --no-noise-floor \
    --strategy zeroth --strategy mean --strategy reduce-aware --strategy fold

if "$python" -c 'import lm_eval, transformers' 2> /dev/null; then
    "$python" "$here/../peers/bench.py" --device cuda:0 --dtype f16 --kintsugi "$kintsugi" --data "$data" --tokenizer "$tokenizer" \
        --shapes 410m,1b --limit 5153 --trial-limit 1024 --batch-sizes 16,64,128,256 --no-compare \
        --work "$work" --out "$out/peers"
fi
