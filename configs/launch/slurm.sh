#!/bin/bash
# LAMBADA on many Slurm nodes: an array of tasks, one shard of the passages each, and the report of all once every task has
# succeeded. Flags of sbatch go into SBATCH_FLAGS, and win over what slurm.sbatch asks for:
#
#   SBATCH_FLAGS="--array=1-8 --partition=gpu" configs/launch/slurm.sh CHECKPOINT lambada_test.jsonl OUT [flags of kintsugi compare]
set -euo pipefail
folder=$(cd "$(dirname "$0")" && pwd)
out=${3:?"usage: slurm.sh CHECKPOINT DATA OUT [flags of kintsugi compare]"}
read -ra flags <<<"${SBATCH_FLAGS:-}"
kintsugi=${KINTSUGI:-kintsugi}

shards=$(sbatch --parsable "${flags[@]}" "$folder/slurm.sbatch" "$@")
combine=$(sbatch --parsable --dependency="afterok:$shards" --kill-on-invalid-dep=yes --job-name=kintsugi-combine \
  --ntasks=1 --cpus-per-task=1 --mem="${COMBINE_MEM:-8G}" --time=00:30:00 --output=kintsugi-%j-combine.log \
  --wrap="$(printf '%q combine %q -o %q' "$kintsugi" "$out" "$out")")
echo "$shards $combine"
