#!/usr/bin/env bash
# launcher=slurm against a real SLURM on this very machine: a cluster of one node, started here and stopped at the end.
#   apt install slurm-wlm munge; sudo tests/slurm/single_node.sh [PYTHON]
# Runs a small sweep on phantoms, has one job queued again while it runs, and compares its metrics with those of the same
# sweep in this process. Says why and ends with 0 where SLURM is not installed. Needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PY="${1:-$PWD/.venv/bin/python}"
for program in slurmctld slurmd sbatch munged; do
    command -v "$program" > /dev/null || { echo "skipped: $program is not here (apt install slurm-wlm munge)"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: needs root, to start munged and slurmd"; exit 0; }
scontrol ping > /dev/null 2>&1 && { echo "skipped: this machine belongs to a cluster already"; exit 0; }

work="$(mktemp -d -t mammo_dp-slurm-XXXX)"
chmod 755 "$work"
cleanup() {
    pkill -x slurmd || true
    pkill -x slurmctld || true
    [ -z "${munge_started:-}" ] || pkill -x munged || true
    rm -rf "$work"
}
trap cleanup EXIT

host="$(hostname -s)"
cores="$(nproc)"
mkdir -p "$work/state" "$work/spool"
cat > "$work/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
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
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
if ! pgrep -x munged > /dev/null; then
    [ -f /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 2> /dev/null; }
    chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key
    mkdir -p /run/munge; chown munge: /run/munge
    runuser -u munge -- munged
    munge_started=1
fi
slurmctld
slurmd
for _ in $(seq 30); do sinfo -h -o %T 2> /dev/null | grep -q idle && break; sleep 1; done
sinfo

words=(-m build_inputs=true stage=train_classifier dataset=toy "dataset.root=$work/toy" dataset.toy.train_patients=16
    dataset.toy.test_patients=8 dataset.toy.external_patients=6 "dataset.public_count.official={image:36,patient:16}"
    privacy.delta=0.01 recipe=paper recipe.select=last recipe.epochs=4000 privacy.epsilon=inf seed=1,2 runtime.threads=1
    runtime.checkpoint_seconds=1)
slurm=(launcher=slurm launcher.gpus_per_node=null launcher.mem_gb=null launcher.cpus_per_task=1)

"$PY" -m mammo_dp "${words[@]}" "outputs=$work/here" > "$work/here.log"
"$PY" -m mammo_dp "${words[@]}" "outputs=$work/cluster" "${slurm[@]}" > "$work/cluster.log" 2>&1 &
sweep=$!
requeued=""
for _ in $(seq 240); do
    kill -0 "$sweep" 2> /dev/null || break
    # one job of a classifier that has written a checkpoint is taken off the machine and queued again
    if [ -z "$requeued" ] && ls "$work"/cluster/train_classifier/*/last.pt > /dev/null 2>&1; then
        job="$(squeue -h -t R -o %A | head -1)"
        [ -n "$job" ] && scontrol requeue "$job" && requeued="$job" && echo "queued again while running: job $job"
    fi
    sleep 1
done
wait "$sweep" || { tail -30 "$work/cluster.log"; exit 1; }
tail -1 "$work/cluster.log"
[ -n "$requeued" ] || { echo "no job ran long enough to be queued again"; exit 1; }
count=0
for file in "$work"/here/train_classifier/*/metrics.json; do
    cmp "$file" "$work/cluster/train_classifier/$(basename "$(dirname "$file")")/metrics.json"
    count=$((count + 1))
done
[ "$count" = 2 ]
[ -z "$(ls -A "$work/cluster/.sweeps" 2> /dev/null)" ] || { echo "the launcher left files behind"; exit 1; }
echo "passed: $count runs on SLURM, one of them queued again on the way, with the metrics of this process"
