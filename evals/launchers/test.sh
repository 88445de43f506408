#!/bin/bash
# Are shards that real launchers start the run of a single process? Starts Slurm (munged, slurmctld, slurmd) on this machine,
# submits configs/launch/slurm.sh on the bundled checkpoint, and compares its report with that of one process; then the same
# with srun, mpirun and, where it is there, torchrun. Debian's slurm-wlm, munge and openmpi-bin are installed where they are
# missing, which needs root. Everything else stays in a temporary folder, and what was started is stopped.
#
#   evals/launchers/test.sh [path to kintsugi]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
kintsugi=$(realpath "${1:-$root/target/release/kintsugi}")
python=${PYTHON:-python3}
work=$(mktemp -dt kintsugi-launchers.XXXXXX)
pids=()

finish() {
  status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [[ $status == 0 ]]; then rm -rf "$work"; else echo "left for a look: $work" >&2; fi
  exit "$status"
}
trap finish EXIT

say() { echo "== $*" >&2; }

if ! command -v slurmctld slurmd munged sbatch mpirun >/dev/null; then
  say "installing slurm-wlm, munge, openmpi-bin"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge openmpi-bin >"$work/apt.log"
fi

demo=$root/evals/demo
export KINTSUGI=$kintsugi
flags=(--tokenizer "$demo/tokenizer.json" --task "$demo/task.yml" --device cpu --chunk-tokens 128 --slice-tokens 128
  --bootstrap-replicates 1000)
# What slurm.sbatch makes of --cpus-per-task.
one=(--threads 1)

same() { "$python" "$root/evals/launchers/same.py" "$work/alone" "$1"; }

say "a single process"
"$kintsugi" -q compare "$demo/checkpoint" --data "$demo/passages.jsonl" --output-dir "$work/alone" "${flags[@]}" "${one[@]}" >/dev/null

say "Slurm: starting munged, slurmctld, slurmd"
node=$(hostname -s)
mkdir -p "$work"/{munge,state,spool}
chmod 755 "$work"
chmod 711 "$work/munge"
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 status=none
chmod 400 "$work/munge.key"
cat >"$work/slurm.conf" <<CONF
ClusterName=kintsugi
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/munge.socket
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1024 State=UNKNOWN
PartitionName=debug Nodes=$node Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
export SLURM_CONF=$work/slurm.conf
munged --foreground --force --key-file="$work/munge.key" --socket="$work/munge/munge.socket" \
  --pid-file="$work/munge/munged.pid" --seed-file="$work/munge/seed" >"$work/munged.out" 2>&1 &
pids+=($!)
for _ in $(seq 50); do [[ -S $work/munge/munge.socket ]] && break; sleep 0.2; done
slurmctld -D -c >"$work/slurmctld.out" 2>&1 &
pids+=($!)
slurmd -D >"$work/slurmd.out" 2>&1 &
pids+=($!)
for _ in $(seq 100); do sinfo -h -o %t 2>/dev/null | grep -q idle && break; sleep 0.3; done
sinfo -h -o %t | grep -q idle || { cat "$work"/slurm*.log >&2; exit 1; }

# Waits until jobs have left the queue; fails if one did not complete.
jobs_done() {
  for _ in $(seq 600); do
    [[ -z $(squeue -h -j "$1" 2>/dev/null) ]] && break
    sleep 0.5
  done
  states=$(scontrol -o show job "$1" | grep -o 'JobState=[A-Z]*' | sort -u)
  [[ $states == JobState=COMPLETED ]] || { echo "job $1: $states" >&2; cat "$work"/*.log >&2; return 1; }
}

say "Slurm: the shipped array of four tasks and the job that joins them"
cd "$work"
read -r array combine < <(SBATCH_FLAGS="--gres=none --cpus-per-task=1 --mem=0" COMBINE_MEM=0 \
  "$root/configs/launch/slurm.sh" "$demo/checkpoint" "$demo/passages.jsonl" "$work/array" "${flags[@]}")
jobs_done "$array"
jobs_done "$combine"
grep -h "from Slurm array" kintsugi-"$array"_*.log >&2
same "$work/array"

say "Slurm: a task of the array is cancelled with SIGTERM on the way and requeued"
read -r array combine < <(SBATCH_FLAGS="--gres=none --cpus-per-task=1 --mem=0 --array=0-1" COMBINE_MEM=0 \
  "$root/configs/launch/slurm.sh" "$demo/checkpoint" "$demo/passages.jsonl" "$work/requeued" "${flags[@]}")
journal=$work/requeued/shards/1-of-2/journal.jsonl
for _ in $(seq 1000); do [[ -f $journal && $(wc -l <"$journal") -ge 5 ]] && break; sleep 0.02; done
scontrol requeue "${array}_0"
jobs_done "$array"
jobs_done "$combine"
grep -h "continuing: " kintsugi-"$array"_0.log >&2
same "$work/requeued"

say "srun: three tasks of one job"
srun --ntasks=3 --overcommit --mem=0 "$kintsugi" compare "$demo/checkpoint" --data "$demo/passages.jsonl" \
  --output-dir "$work/srun" "${flags[@]}" "${one[@]}" 2>&1 | grep "from Slurm (SLURM_PROCID" >&2
"$kintsugi" -q combine "$work/srun" -o "$work/srun" >/dev/null
same "$work/srun"

say "mpirun: three processes"
mpirun --allow-run-as-root --oversubscribe -n 3 "$kintsugi" compare "$demo/checkpoint" --data "$demo/passages.jsonl" \
  --output-dir "$work/mpi" "${flags[@]}" "${one[@]}" 2>&1 | grep "from Open MPI" >&2
"$kintsugi" -q combine "$work/mpi" -o "$work/mpi" >/dev/null
same "$work/mpi"

torchrun=${TORCHRUN:-$(command -v torchrun || true)}
if [[ -n $torchrun ]]; then
  say "torchrun: the shipped script, two processes"
  PATH=$(dirname "$torchrun"):$PATH NPROC=2 "$root/configs/launch/torchrun.sh" "$demo/checkpoint" "$demo/passages.jsonl" \
    "$work/torchrun" "${flags[@]}" "${one[@]}" 2>&1 | grep "from torchrun" >&2
  same "$work/torchrun"
else
  say "torchrun: skipped, it is not there (TORCHRUN=path)"
fi
say "all the same"
