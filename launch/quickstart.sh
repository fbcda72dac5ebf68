#!/usr/bin/env bash
# Trains a small PixelDiT on real handwritten digits and draws new ones.
set -euo pipefail

usage='usage: bash launch/quickstart.sh [-h]

Makes a virtual environment, trains a small class-conditional PixelDiT on 5,000
MNIST digits (they come with a package; nothing else is downloaded), samples
500 digits with guidance and says how many are recognised as the digit that was
asked for, and how far their features lie from those of the real ones. A CPU is
enough. Everything goes to build/quickstart. Stopped and run again, it goes on
where it was.

Settings: PYTHON=python3.12 (the Python to use), PIXELDIT_VENV=DIR (the place
of the virtual environment; default .venv).'

# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

case ${1:-} in
'') ;;
-h | --help)
  echo "$usage"
  exit
  ;;
*) fail "unknown argument '$1'" "${usage%%$'\n'*}" ;;
esac

trap 'echo "Stopped. The same command goes on from here."; exit 130' INT
prepare_environment 2000 '.[demo]'
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# Large pages for the big buffers of each step: a tenth faster on Linux.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
cd "$root"
workdir=build/quickstart
samples=$workdir/samples

echo "Training in $workdir"
"$venv_python" launch/train.py --config=configs/mnist.py --workdir="$workdir"

echo 'Sampling 500 digits, and judging them by a classifier of the real ones'
"$venv_python" launch/evaluate.py --workdir="$workdir" --out="$samples" \
  --num_samples=500 --features=digits --overwrite
echo "The picture: $root/$samples/samples.png"
