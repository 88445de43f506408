#!/bin/sh
# The scratch environment of `make bench-peers`: .bench-venv, from PyPI.
set -eu
cd "$(dirname "$0")/../.."
python3 -m venv .bench-venv
.bench-venv/bin/pip install --quiet torch==2.11.0 transformers lm-eval==0.4.13 datasets
