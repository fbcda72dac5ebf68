#!/usr/bin/env bash
# numpy 2.4.6.
#
# Expected: default_rng([seed, worker]) and default_rng([seed, epoch, index])
# are streams of their own for each list of numbers: SeedSequence "will take all
# of the bits that you provide", and for lists "the safety guarantees against
# collision are about the same as with spawning", 2**-88 for a million streams
# (numpy's page on parallel random number generation; of the order [seed,
# worker] it says that it will work).
#
# What happens: the list is written as words of 32 bits without an end, and
# padded with zeros to four. [7, 0], [7, 0, 0] and 7 are one stream: worker 0
# draws what the main process draws with only the seed, example 0 what its epoch
# draws. A number of 2**32 or more is two words: [2**32 * 3 + 7, 5] is [7, 3,
# 5]. Behind four words zeros count, and spawn() pads first, so that its streams
# differ.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  numpy==2.4.6

cat >"$folder/try.py" <<'PYTHON'
import sys

import numpy as np


def noise(seed):
  return np.random.default_rng(seed).normal(size=3).round(4).tolist()


def same(*seeds):
  drawn = [noise(seed) for seed in seeds]
  print(*(f'{s} draws {d}' for s, d in zip(seeds, drawn)), sep='\n')
  return all(numbers == drawn[0] for numbers in drawn)


print('numpy', np.__version__)
padded = same(7, [7, 0], [7, 0, 0])
last = same([7, 3], [7, 3, 0])
wide = same([2**32 * 3 + 7, 5], [7, 3, 5])
longer = same([1, 2, 3, 4], [1, 2, 3, 4, 0])
spawned = noise(np.random.SeedSequence(7).spawn(1)[0])
print('first spawned of 7 draws', spawned)
if not (padded and last and wide):
  sys.exit('changed: these lists of numbers are streams of their own')
if longer or spawned == noise(7):
  sys.exit('changed: zeros behind four words, or spawning, are no help')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# 7 draws [0.0012, 0.2987, -0.2741]
# [7, 0] draws [0.0012, 0.2987, -0.2741]
# [7, 0, 0] draws [0.0012, 0.2987, -0.2741]
# [7, 3] draws [-1.6673, 0.0639, 1.4946]
# [7, 3, 0] draws [-1.6673, 0.0639, 1.4946]
# [12884901895, 5] draws [0.9727, 0.5763, -0.7328]
# [7, 3, 5] draws [0.9727, 0.5763, -0.7328]
# [1, 2, 3, 4] draws [-0.5062, 1.6152, -0.8789]
# [1, 2, 3, 4, 0] draws [-0.4247, 1.6716, -0.459]
# first spawned of 7 draws [-0.6301, 1.4651, -0.4393]
