#!/usr/bin/env bash
# One sweep on SLURM: starts a Ray head and workers by srun, then `lethe run`. After preemption, or at its
# time limit, the job is requeued and the sweep resumes.
#   sbatch cluster/slurm.sh search_spaces/tofu_forget10_llama32_1b.yaml --name tofu-a
# LETHE_STORAGE must name a folder that all nodes share. MLFLOW_TRACKING_* and HF_TOKEN are taken from the
# environment of sbatch.
#SBATCH --job-name=lethe
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=lethe-%j.log
set -euo pipefail

: "${LETHE_STORAGE:?export it: a folder that all nodes share}"
[ $# -ge 1 ] || { echo "usage: sbatch $0 FILE [options of lethe run]" >&2; exit 2; }

# A token for this job alone. It is passed in the environment, which srun forwards, because every user of a
# node can read command lines.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE RAY_AUTH_TOKEN LETHE_STORAGE

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head_ip=$(srun --nodes=1 --ntasks=1 --overlap -w "$head_node" hostname --ip-address | awk '{print $1}')
# Other jobs may use the same network, so the port is derived from the job id.
port=$((20000 + SLURM_JOB_ID % 20000))
temporary=/tmp/ray-$SLURM_JOB_ID
export RAY_ADDRESS=$head_ip:$port

lethe_process=
finish() { kill $(jobs -p) 2>/dev/null || true; }
trap finish EXIT
requeue() {
    # The signal loses no results: finished trials are in the journal, and running trials are repeated with
    # the same parameters.
    [ -z "$lethe_process" ] || { kill -TERM "$lethe_process" 2>/dev/null || true; wait "$lethe_process" || true; }
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap requeue TERM

srun --nodes=1 --ntasks=1 --overlap -w "$head_node" env -u RAY_ADDRESS \
    ray start --head --block --node-ip-address="$head_ip" --port="$port" --temp-dir="$temporary" --dashboard-host=127.0.0.1 --disable-usage-stats &
for _ in $(seq 60); do ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1 && break; sleep 2; done

if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap --exclude="$head_node" env -u RAY_ADDRESS \
        ray start --block --address="$RAY_ADDRESS" --disable-usage-stats &
fi

# Lethe counts its lanes when it starts, so every node must have joined the cluster by then.
python - "$SLURM_JOB_NUM_NODES" <<'PYTHON'
import sys, time, ray

ray.init(log_to_driver=False)
deadline = time.monotonic() + 300
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit("not all nodes joined the Ray cluster within 300 s")
    time.sleep(2)
PYTHON

lethe run "$@" &
lethe_process=$!
status=0
wait "$lethe_process" || status=$?
exit "$status"
