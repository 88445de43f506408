#!/bin/bash
# LAMBADA on all GPUs of one or several machines, one process per GPU, started by torchrun:
#
#   configs/launch/torchrun.sh CHECKPOINT lambada_test.jsonl OUT [options of kintsugi compare]
#
# On several machines: run the same command on each, with NNODES and RDZV (host:port) set and OUT on a shared file system.
# Run it again to resume after an interruption.
set -euo pipefail
checkpoint=${1:?"checkpoint"} data=${2:?"passages"} out=${3:?"output directory"}
shift 3
kintsugi=${KINTSUGI:-kintsugi}
rendezvous=(--standalone)
if [[ ${NNODES:-1} != 1 ]]; then
  rendezvous=(--rdzv-backend=c10d --rdzv-endpoint="${RDZV:?"host:port of the first machine"}")
fi

# torchrun sets RANK, WORLD_SIZE and LOCAL_RANK, which kintsugi reads; --no-python, since kintsugi is not a Python program.
torchrun --nnodes="${NNODES:-1}" --nproc-per-node="${NPROC:-gpu}" "${rendezvous[@]}" --no-python \
  "$kintsugi" compare "$checkpoint" --data "$data" --output-dir "$out" "$@"

# torchrun waits for all processes of all machines. With a shared OUT, one machine joins: set COMBINE=0 on the others.
if [[ ${COMBINE:-1} == 1 ]]; then
  "$kintsugi" combine "$out" -o "$out"
fi
