#!/bin/bash
# pack_wheels.sh PYTHON [KIT]: puts into KIT/wheels (.gpu) what peers.sh needs beside the torch 2.11 of that Python. The Python and the
# bare machine's must be of one version.
set -eu
python=$1 wheels=${2:-.gpu}/wheels
mkdir -p "$wheels"
report=$(mktemp)
"$python" -m pip install --quiet --dry-run --report "$report" lm-eval==0.4.13 transformers accelerate
"$python" - "$report" > "$report.txt" << 'END'
import json, sys
for package in json.load(open(sys.argv[1]))["install"]:
    print(f"{package['metadata']['name']}=={package['metadata']['version']}")
END
"$python" -m pip wheel --quiet --no-deps -w "$wheels" -r "$report.txt"
rm "$report" "$report.txt"
du -sh "$wheels"
