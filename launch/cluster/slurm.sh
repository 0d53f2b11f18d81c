#!/usr/bin/env bash
# Slurm: a Ray cluster over the allocation and one run on it. Not yet run on real hardware.
#   sbatch launch/cluster/slurm.sh experiment=gsm8k_grpo_8gpu model=/shared/model data.path=/shared/gsm8k/train.jsonl \
#     output=/shared/runs/gsm8k
# Submit from the root of the clone, on a file system that all nodes share, with the environment in .venv. The same
# command continues a run: ten minutes before the time limit it is asked to save and stop.
#SBATCH --job-name=rlhf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --signal=B:TERM@600
set -euo pipefail

cd "$SLURM_SUBMIT_DIR"
# Before `ray start`: a job's `python` is looked up on the PATH of Ray.
source .venv/bin/activate

# A token of this job alone, readable by its user alone; every node sees it, as homes are shared.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/slurm-$SLURM_JOB_ID"
mkdir -p "$HOME/.ray"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# Compiled kernels go to a disk of each node: in a shared home the nodes would write the same files at once.
caches="${SLURM_TMPDIR:-/tmp}/rlhf-$USER"
export TORCHINDUCTOR_CACHE_DIR="$caches/inductor" TRITON_CACHE_DIR="$caches/triton" VLLM_CACHE_ROOT="$caches/vllm"
export TORCH_EXTENSIONS_DIR="$caches/extensions" CUDA_CACHE_PATH="$caches/cuda"

# Steps do not inherit it, and would run on one core.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# Ports stay out of 10002 to 19999, which Ray keeps for its workers.
readonly PORT=6379 DASHBOARD_PORT=8265 STOP_WAIT_S=540
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
dashboard="http://$address:$DASHBOARD_PORT"

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --num-cpus="$SLURM_CPUS_PER_TASK" --node-ip-address="$address" --port=$PORT \
  --dashboard-host="$address" --dashboard-port=$DASHBOARD_PORT &
for _ in $(seq 60); do
  ray health-check --address "$address:$PORT" 2>/dev/null && break
  sleep 2
done
if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$head" \
    ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --address="$address:$PORT" &
fi

count_nodes() {
  ray list nodes --address "$dashboard" --filter state=ALIVE --limit 10000 --format json |
    python -c 'import json, sys; print(len(json.load(sys.stdin)))'
}
# A run refuses a cluster that is too small rather than waiting for it to grow.
for _ in $(seq 60); do
  [[ $(count_nodes) == "$SLURM_JOB_NUM_NODES" ]] && break
  sleep 2
done

job="slurm-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
trap 'ray job stop --address "$dashboard" "$job"' TERM
# The agent that starts jobs comes up a little after its node.
for _ in $(seq 12); do
  ray job submit --address "$dashboard" --no-wait --submission-id "$job" --working-dir . \
    --runtime-env-json "{\"env_vars\": {\"RAY_JOB_STOP_WAIT_TIME_S\": \"$STOP_WAIT_S\"}}" \
    -- python launch/ppo.py "$@" && break
  sleep 5
done
ray job logs --address "$dashboard" --follow "$job" &
logs=$!
# A wait ends early when the trap has run; the job has not.
while kill -0 "$logs" 2>/dev/null; do
  wait "$logs" || true
done
[[ $(ray job status --address "$dashboard" "$job" 2>&1) == *succeeded* ]]
