#!/bin/sh
# What drift costs a trained model: MODEL divided over 3 ranks without drift and with 1 % and 5 %, all merges, in both types.
# usage: evals/trained/run.sh KINTSUGI MODEL lambada_test.jsonl OUT [further options of compare, as --limit 400]
set -eu
kintsugi=$1 model=$2 data=$3 out=$4
shift 4
mkdir -p "$out"
for drift in 0 0.01 0.05; do
    [ -d "$out/split-$drift" ] || "$kintsugi" synth --from "$model" --tensor-parallel 3 --drift "$drift" -o "$out/split-$drift"
done
for type in f32 bf16; do
    for drift in 0 0.01 0.05; do
        command=compare
        if [ "$drift" = 0 ]; then command=eval; fi # every merge is the model
        "$kintsugi" "$command" "$out/split-$drift" --data "$data" --dtype "$type" --output-dir "$out/$drift-$type" "$@"
    done
done
for drift in 0.01 0.05; do
    "$kintsugi" compare "$out/split-$drift" --data "$data" --dtype f32 --until-decided --output-dir "$out/$drift-until-decided" "$@"
done
