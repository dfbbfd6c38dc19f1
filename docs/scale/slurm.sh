#!/bin/bash
# Two machines with four GPUs each, and a minute's notice before the time is up: sbatch docs/scale/slurm.sh PICTURES
#SBATCH --job-name=barlow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@60
#SBATCH --requeue
# srun gives every process to MPI through PMIx, and the signal to all of them. The run goes on where it was when the job
# begins again.
exec srun --mpi=pmix barlow train "$1" --preset paper --out "${RUN:-runs/paper}" --resume auto
