#!/usr/bin/env bash
# Checks the style and runs the tests.
set -euo pipefail

usage='usage: bash launch/test.sh [--all] [PYTEST_ARGUMENT...]

Runs ruff and the fast tests (some minutes on 2 cores). Other arguments go to
pytest, as in: bash launch/test.sh tests/model -k rope

  --all      the slow tests too, and those that compare with PyTorch or compile
             for a TPU: installs torch, transformers, torch-fidelity and libtpu
  -h --help  this text

Settings: PYTHON=python3.12 (the Python to use), PIXELDIT_VENV=DIR (the place
of the virtual environment; default .venv).'

# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

case ${1:-} in
-h | --help)
  echo "$usage"
  exit
  ;;
--all)
  shift
  needed_mb=8000
  requirements=('.[browser,dask,demo,features,fp8,gcs,hdf5,mds,notebook,s3,studio,test,text,torch,transformers]' torch-fidelity)
  # The TPU compiler is for 64-bit x86 Linux alone; its tests skip elsewhere.
  case $(uname -sm) in
  'Linux x86_64') requirements[0]='.[browser,dask,demo,features,fp8,gcs,hdf5,mds,notebook,s3,studio,test,text,torch,transformers,tpu]' ;;
  esac
  # On Linux the usual torch brings 3 GB of CUDA. This one does not:
  # PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
  ;;
*)
  needed_mb=2000
  requirements=('.[dask,demo,fp8,gcs,s3,test]')
  set -- -m 'not slow' "$@"
  ;;
esac

prepare_environment "$needed_mb" "${requirements[@]}"
cd "$root"
export JAX_PLATFORMS=cpu
# Lets test processes use the TPU compiler side by side.
export ALLOW_MULTIPLE_LIBTPU_LOAD=1 TPU_SKIP_MDS_QUERY=1

style=0
"$venv_python" -m ruff check . || style=$?
"$venv_python" -m ruff format --check . || style=$?
"$venv_python" -m pytest -n auto --maxprocesses=8 --dist worksteal "$@"
if [ "$style" != 0 ]; then
  fail 'ruff found something (see above the tests)' \
    "To correct it: $venv_python -m ruff check --fix . &&" \
    "$venv_python -m ruff format ."
fi
