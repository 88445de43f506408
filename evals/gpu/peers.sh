#!/bin/bash
# peers.sh [KIT]: kintsugi beside transformers + lm-evaluation-harness on the same GPU, after run.sh or by itself: 410m and 1b shapes, float16, all
# passages, the harness at its best batch size, both with libtorch's flash attention (cuDNN's is off on both sides). At most ten minutes.
# KIT (.gpu) has kintsugi, lambada_test.jsonl and 20B_tokenizer.json; where PYTHON lacks the harness, its wheels too (pack_wheels.sh).
# Results go to $OUT/peers/results.json after every shape. SHAPES, LIMIT, WORK as in run.sh.
set -u
here=$(cd "$(dirname "$0")" && pwd)
kit=$(cd "${1:-.gpu}" && pwd) || exit 2
out=${OUT:-/tmp/out} python=${PYTHON:-python3} work=${WORK:-/tmp/kintsugi-peers}
read -ra prefix <<< "${PREFIX:-}"
mkdir -p "$out" "$work"
exec > >(tee -a "$out/peers.txt") 2>&1
if ! "$python" -c 'import lm_eval, transformers' 2> /dev/null; then
    # Beside what is there, whose torch is used.
    "$python" -m pip install --quiet --no-index --no-deps --target "$work/site" "$kit"/wheels/*.whl
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
    "$python" -c 'import lm_eval, transformers' || { echo "no lm-eval and transformers here, nor their wheels in $kit/wheels"; exit 2; }
fi
cp "$kit/kintsugi" "$work/kintsugi"
chmod +x "$work/kintsugi"
LD_LIBRARY_PATH=$("$python" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
timeout -k 5 590 "${prefix[@]}" "$python" "$here/../peers/bench.py" --device cuda:0 --dtype f16 --kintsugi "$work/kintsugi" \
    --data "$kit/lambada_test.jsonl" --tokenizer "$kit/20B_tokenizer.json" --shapes "${SHAPES:-410m,1b}" --limit "${LIMIT:-5153}" \
    --trial-limit 1024 --batch-sizes 16,64,128,256 --runs 3 --no-compare --work "$work" --out "$out/peers"
echo "exit $?"
sleep 1 # for tee
