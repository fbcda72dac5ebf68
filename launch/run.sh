#!/usr/bin/env bash
# Prepares the environment on this machine and runs a script in it.
set -euo pipefail

usage='usage: bash launch/run.sh cpu|cuda|tpu SCRIPT [ARGUMENT...]

As in: bash launch/run.sh cuda launch/train.py --config=configs/imagenet256.py
The first word says which JAX is installed. The workers of a TPU slice run
this; it serves on any machine.'

# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

buckets='' # the extras of those that the arguments name
case " $*" in *[\ =:]gs://*) buckets+=,gcs ;; esac
case " $*" in *[\ =:]s3://*) buckets+=,s3 ;; esac

case ${1:-} in
-h | --help)
  echo "$usage"
  exit
  ;;
cpu)
  prepare_environment 2000 ".${buckets:+[${buckets#,}]}"
  # glibc keeps the memory of one step for the next. Else the kernel clears all
  # of it again and again: a seventh of the time of training a large network.
  export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1
  use_large_pages
  ;;
cuda) prepare_environment 8000 ".[cuda$buckets]" ;; # NVIDIA's libraries are large
tpu) prepare_environment 3000 ".[tpu$buckets]" ;;
*) fail "'${1:-}' is not cpu, cuda or tpu" "${usage%%$'\n'*}" ;;
esac
shift
[ $# -gt 0 ] || fail 'no script to run' "${usage%%$'\n'*}"
cd "$root"
exec "$venv_python" "$@"
