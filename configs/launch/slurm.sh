#!/bin/bash
# LAMBADA on many Slurm nodes: an array of tasks, one run shard each, and the joined report once every task has succeeded.
# Put options of sbatch into SBATCH_FLAGS; they win over those in slurm.sbatch:
#
#   SBATCH_FLAGS="--array=1-8 --partition=gpu" configs/launch/slurm.sh CHECKPOINT lambada_test.jsonl OUT [options of kintsugi compare]
set -euo pipefail
folder=$(cd "$(dirname "$0")" && pwd)
out=${3:?"usage: slurm.sh CHECKPOINT DATA OUT [options of kintsugi compare]"}
read -ra flags <<<"${SBATCH_FLAGS:-}"
kintsugi=${KINTSUGI:-kintsugi}

shards=$(sbatch --parsable "${flags[@]}" "$folder/slurm.sbatch" "$@")
combine=$(sbatch --parsable --dependency="afterok:$shards" --kill-on-invalid-dep=yes --job-name=kintsugi-combine \
  --ntasks=1 --cpus-per-task=1 --mem="${COMBINE_MEM:-8G}" --time=00:30:00 --output=kintsugi-%j-combine.log \
  --wrap="$(printf '%q combine %q -o %q' "$kintsugi" "$out" "$out")")
echo "$shards $combine"
