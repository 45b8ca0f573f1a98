#!/bin/bash
# Spectra of a network's curvature on two nodes with four GPUs each. Submit it again
# with RESUME=1 after a time limit or a lost node, with any number of nodes:
#
#     sbatch examples/slurm.sh
#     RESUME=1 sbatch --nodes 1 examples/slurm.sh
#SBATCH --job-name=eigenscope
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
set -euo pipefail

out=${OUT:-$SLURM_SUBMIT_DIR/runs/resnet20} # on a disk that all nodes see
if [ -n "${RESUME:-}" ]; then
  job=(hessian --resume --out "$out")
else
  job=(hessian --model resnet20_cifar10 --weights resnet20.safetensors
    --data cifar10 --data-root data --num-samples 10000 --layers parameter
    --device cuda --out "$out")
fi

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))

srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
  -m eigenscope "${job[@]}"
