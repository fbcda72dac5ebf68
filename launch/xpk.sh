#!/usr/bin/env bash
# Runs a script on TPU slices of a GKE cluster, through XPK.
set -euo pipefail

usage='usage: bash launch/xpk.sh --cluster=CLUSTER --workload=NAME --tpu-type=TYPE [OPTION...] SCRIPT [ARGUMENT...]

As in: bash launch/xpk.sh --cluster=mine --workload=xl --tpu-type=v5litepod-256 \
  --num-slices=2 launch/train.py --config=configs/imagenet256.py:size=XL \
  --workdir=gs://mine/runs/xl

Puts the code into an image, starts it on every machine of the slices, makes
the environment there and runs the script; JAX joins them. After a failure it
starts again, from the last checkpoint.

  --dry_run  only show the commands

Other options go to "xpk workload create" (as --option=value): --project,
--zone, --num-slices, --storage, --priority, --spot, --max-restarts, ...'

# shellcheck source=launch/dispatch.sh
. "$(dirname "${BASH_SOURCE[0]}")/dispatch.sh"

options=()
while [ $# -gt 0 ]; do
  case $1 in
  -h | --help)
    echo "$usage"
    exit
    ;;
  --dry_run) dry_run=yes ;;
  -*) options+=("$1") ;;
  *) break ;;
  esac
  shift
done
for option in cluster workload tpu-type; do
  case " ${options[*]-}" in
  *" --$option="*) ;;
  *) fail "--$option=... is needed" "${usage%%$'\n'*}" ;;
  esac
done
need_script "$@"
check_config "$@"
need_command xpk 'pip install xpk; it needs gcloud, kubectl and docker'

# A copy: XPK puts the whole folder into the image, environment and runs too.
pack_source
run mkdir "$packed/image"
run tar -xzf "$packed/pixeldit_jax.tgz" -C "$packed/image"
run xpk workload create --base-docker-image=python:3.12 --max-restarts=10 \
  "${options[@]}" --script-dir="$packed/image" \
  --command="bash launch/run.sh tpu $(quoted "$@")"
