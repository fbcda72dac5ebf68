#!/usr/bin/env bash
#SBATCH --job-name=pixeldit
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=pixeldit-%j.log
# Runs a script on the GPUs of a SLURM cluster, one process to a GPU.
set -euo pipefail

usage='usage: sbatch [SBATCH_OPTION...] launch/slurm.sh [--dry_run] SCRIPT [ARGUMENT...]

As in: sbatch --nodes=4 launch/slurm.sh launch/train.py \
  --config=configs/imagenet256.py:size=XL --workdir=/shared/runs/xl

To be called in the checkout, on a file system that all nodes share. Asks for
8 GPUs a node and as many tasks; for 4: --ntasks-per-node=4 --gpus-per-node=4.
The first node makes the environment; JAX joins the tasks by itself. A job that
is queued again goes on from the last checkpoint.

  --dry_run  only show the commands; bash launch/slurm.sh --dry_run ... does so
             without SLURM'

# sbatch runs a copy of this file that lies elsewhere.
launch=$(dirname "${BASH_SOURCE[0]}")
[ -e "$launch/dispatch.sh" ] || launch=${SLURM_SUBMIT_DIR:-.}/launch
if [ ! -e "$launch/dispatch.sh" ]; then
  echo "error: no scripts in $launch; call sbatch in the checkout" >&2
  exit 1
fi
# shellcheck source=launch/dispatch.sh
. "$launch/dispatch.sh"

while [ $# -gt 0 ]; do
  case $1 in
  -h | --help)
    echo "$usage"
    exit
    ;;
  --dry_run) dry_run=yes ;;
  -*) fail "unknown option '$1'" "${usage%%$'\n'*}" ;;
  *) break ;;
  esac
  shift
done
need_script "$@"
[ -n "$dry_run${SLURM_JOB_ID:-}" ] ||
  fail 'not in a SLURM job' "${usage%%$'\n'*}"

cd "$root"
run prepare_environment 8000 '.[cuda]'
# srun does not take this over from sbatch. Every task has to see all GPUs of
# its node: JAX picks one by the number of the task.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}
run srun --kill-on-bad-exit=1 --gpu-bind=none "$venv_python" "$@"
