#!/bin/bash
# pack.sh KINTSUGI LAMBADA_TEST.jsonl 20B_TOKENIZER.json CHECKPOINTS [KIT]: puts what run.sh needs on a bare machine into KIT (.gpu), about 60 MB:
# the program without its symbols, the passages, the tokenizer, and the reference checkpoints that gpt-neox evaluated (`reference.json`).
set -eu
kit=${5:-.gpu}
mkdir -p "$kit"
strip -o "$kit/kintsugi" "$1"
cp "$2" "$kit/lambada_test.jsonl"
cp "$3" "$kit/20B_tokenizer.json"
chmod u+w "$kit"/*
mkdir "$kit/checkpoints"
for reference in "$4"/*/reference.json; do cp -rL "$(dirname "$reference")" "$kit/checkpoints/"; done
chmod -R u+w "$kit/checkpoints"
find "$kit/checkpoints" \( -name hf_converted -o -name '*.npz' \) -prune -exec rm -rf {} +
tar -C "$kit" -cJf "$kit/checkpoints.tar.xz" checkpoints
rm -rf "$kit/checkpoints"
du -sh "$kit"
