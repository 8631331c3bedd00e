#!/usr/bin/env bash
#SBATCH --job-name=lopt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=32
#SBATCH --cpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Meta-training on a SLURM cluster.  Two minutes before the time is up SLURM sends SIGUSR1 to every rank: lopt finishes the
# outer step, writes a checkpoint and leaves with exit code 0; the job then queues itself again and resumes.
# Install once on a login node: pip install .   with mpi4py built against the cluster's MPI.
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"

config=${LOPT_CONFIG:-experiments/01_digits/config.toml}
out=${LOPT_OUT:-runs/$SLURM_JOB_NAME}
resume=()
[ -e "$out/checkpoint.h5" ] && resume=(--resume)

srun lopt train --config "$config" --out "$out" --set train.minutes=0 "${resume[@]}"

if [ "$(lopt info "$out/run.h5" | grep -c 'signal')" -gt 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
