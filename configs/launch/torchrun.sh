#!/bin/bash
# LAMBADA on all GPUs of one or several machines, a process a GPU, started by torchrun as any training is:
#
#   configs/launch/torchrun.sh CHECKPOINT lambada_test.jsonl OUT [further flags of kintsugi compare]
#
# On several machines: the same command on each, with NNODES, and RDZV as torchrun takes them; OUT on a shared file system.
# Run it again to go on after an interruption.
set -euo pipefail
checkpoint=${1:?"checkpoint"} data=${2:?"passages"} out=${3:?"output directory"}
shift 3
kintsugi=${KINTSUGI:-kintsugi}
rendezvous=(--standalone)
if [[ ${NNODES:-1} != 1 ]]; then
  rendezvous=(--rdzv-backend=c10d --rdzv-endpoint="${RDZV:?"host:port of the first machine"}")
fi

# torchrun sets RANK, WORLD_SIZE and LOCAL_RANK, which kintsugi reads; --no-python, since it is no Python.
torchrun --nnodes="${NNODES:-1}" --nproc-per-node="${NPROC:-gpu}" "${rendezvous[@]}" --no-python \
  "$kintsugi" compare "$checkpoint" --data "$data" --output-dir "$out" "$@"

# torchrun has waited for all processes of all machines; any one machine may join.
if [[ ${COMBINE:-1} == 1 ]]; then
  "$kintsugi" combine "$out" -o "$out"
fi
