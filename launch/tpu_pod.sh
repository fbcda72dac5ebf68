#!/usr/bin/env bash
# Runs a script on all workers of a Cloud TPU slice.
set -euo pipefail

usage='usage: bash launch/tpu_pod.sh --name=NAME --zone=ZONE [OPTION...] SCRIPT [ARGUMENT...]

As in: bash launch/tpu_pod.sh --name=pod --zone=us-west4-a --type=v5litepod-256 \
  launch/train.py --config=configs/imagenet256.py:size=XL --workdir=gs://mine/runs/xl

Copies the code to every worker, makes the environment there and runs the same
command on all; JAX joins them. Run again, it goes on from the last checkpoint.

  --project=PROJECT  default: that of gcloud
  --type=TYPE        make the slice first, if it is not there: v5litepod-256,
                     v5p-128, v6e-256, v4-64, ...
  --spot             make it of cheaper machines that may be taken away
  --runtime=VERSION  software of a new slice; default: the usual one of its type
  --detach           leave it running; output goes to ~/pixeldit_jax.log there
  --stop             end what runs there (no SCRIPT)
  --dry_run          only show the commands'

# shellcheck source=launch/dispatch.sh
. "$(dirname "${BASH_SOURCE[0]}")/dispatch.sh"

name='' zone='' project='' type='' runtime='' spot='' detach='' stop=''
while [ $# -gt 0 ]; do
  case $1 in
  -h | --help)
    echo "$usage"
    exit
    ;;
  --name=* | --zone=* | --project=* | --type=* | --runtime=*)
    option=${1%%=*}
    printf -v "${option#--}" %s "${1#*=}"
    ;;
  --spot | --detach | --stop | --dry_run) printf -v "${1#--}" %s "$1" ;;
  -*) fail "unknown option '$1'" "${usage%%$'\n'*}" ;;
  *) break ;;
  esac
  shift
done
[ -n "$name" ] && [ -n "$zone" ] ||
  fail '--name=NAME and --zone=ZONE are needed' "${usage%%$'\n'*}"
[ -n "$stop" ] || need_script "$@"
[ -n "$stop" ] || check_config "$@"
need_command gcloud 'Get it at https://cloud.google.com/sdk/docs/install'

tpu_vm() { # VERB ARGUMENT...
  run gcloud compute tpus tpu-vm "$@" --zone="$zone" \
    ${project:+"--project=$project"}
}

# The software that Google gives for each kind of chip.
usual_runtime() {
  case $type in
  v5litepod-*) echo v2-alpha-tpuv5-lite ;;
  v5p-*) echo v2-alpha-tpuv5 ;;
  v6e-*) echo v2-alpha-tpuv6e ;;
  *) echo tpu-ubuntu2204-base ;;
  esac
}

if [ -n "$stop" ]; then
  tpu_vm ssh "$name" --worker=all \
    --command='bash pixeldit_jax/launch/tpu_worker.sh --stop'
  exit
fi

if [ -n "$type" ]; then
  if [ -n "$dry_run" ]; then echo "# If there is no $name yet:"; fi
  if [ -n "$dry_run" ] || ! tpu_vm describe "$name" >/dev/null 2>&1; then
    tpu_vm create "$name" --accelerator-type="$type" \
      --version="${runtime:-$(usual_runtime)}" ${spot:+"$spot"}
  fi
fi
pack_source
tpu_vm scp "$packed/pixeldit_jax.tgz" "$name:" --worker=all
# Old code goes, so that no deleted file stays; the environment remains.
tpu_vm ssh "$name" --worker=all --command="mkdir -p pixeldit_jax &&
cd pixeldit_jax && rm -rf pixeldit_jax configs launch &&
tar -xzf ../pixeldit_jax.tgz &&
bash launch/tpu_worker.sh ${detach:+"$detach "}$(quoted "$@")"
