#!/usr/bin/env bash
# Two machines with eight GPUs each, requeued until done: sbatch training/slurm.sh --config training/recipes/celeba-64.yaml
#
# Adapt the partition, the sizes and how the environment is activated. The job requests SIGTERM two minutes before its
# time limit. The run then saves a checkpoint, for which torchrun allows 30 seconds, and the job requeues itself to resume
# from there.
#SBATCH --job-name=fagan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

source .venv/bin/activate
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Slurm sends SIGTERM to the tasks started by srun, here the launchers, which forward it; this script continues afterward.
status=0
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes "$SLURM_NNODES" --nproc_per_node 8 --max-restarts 3 \
    --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv_backend c10d --rdzv_endpoint "$main:29500" \
    training/train.py "$@" || status=$?

# Less than three minutes left (M:SS): the time limit stopped the run, which had not finished.
if [[ $(squeue --noheader --job "$SLURM_JOB_ID" --format %L) =~ ^[0-2]:[0-9]{2}$ ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
