#!/usr/bin/env bash
# Two machines of eight GPUs each, as long as it takes: sbatch training/slurm.sh --config training/recipes/celeba-64.yaml
#
# Adapt the partition, the sizes and how the environment comes to life. The job asks for SIGTERM two minutes before its
# time is over. The run answers with a checkpoint, for which torchrun leaves it 30 seconds, and the job puts itself back
# into the queue, to go on from there.
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

# Slurm sends SIGTERM to the tasks that srun started, here the launchers, which pass it on; this script goes on after it.
status=0
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes "$SLURM_NNODES" --nproc_per_node 8 --max-restarts 3 \
    --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv_backend c10d --rdzv_endpoint "$main:29500" \
    training/train.py "$@" || status=$?

# Less than three minutes left (M:SS): it was the time limit that ended the run, not its end.
if [[ $(squeue --noheader --job "$SLURM_JOB_ID" --format %L) =~ ^[0-2]:[0-9]{2}$ ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
