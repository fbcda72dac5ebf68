#!/usr/bin/env bash
# jax 0.10.2 with flax 0.12.8, on a CPU.
#
# Expected: keys made by jax.random.split and by jax.random.fold_in are two
# families: fold_in(key, step) is "statistically safe for producing a stream of
# new pseudo-random values" (its documentation), and is none of split(key),
# which were given out before.
#
# What happens: split(key, n)[i] IS fold_in(key, i), for threefry (the default)
# and rbg, since jax_threefry_partitionable became the default. A trainer that
# has init_key, data_key = split(key) and later fold_in(key, step) uses these
# two keys again in steps 0 and 1: below, the weights are the noise of step 0
# over 50. The checker (jax_debug_key_reuse), which refuses a second split,
# passes it.
#
# nnx.Rngs(seed) numbers its draws by fold_in too: its first two are
# split(jax.random.key(seed)), of which a program with one seed draws its data.
#
# It was meant so (jax pull request 13341), but the documentation of neither
# function says it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 flax==0.12.8
export JAX_PLATFORMS=cpu

cat >"$folder/try.py" <<'PYTHON'
import sys

import flax
import jax
import numpy as np
from flax import nnx

jax.config.update('jax_debug_key_reuse', True)


def words(keys):
  return np.asarray(jax.random.key_data(keys)).tolist()


def same(impl):
  key = jax.random.key(0, impl=impl)
  split = words(jax.random.split(key, 3))
  return split == [words(jax.random.fold_in(key, i)) for i in range(3)]


print('jax', jax.__version__, 'flax', flax.__version__)
found = {impl: same(impl) for impl in ('threefry2x32', 'rbg')}
with jax.threefry_partitionable(False):
  found['threefry2x32, not partitionable'] = same('threefry2x32')
print('split(key, 3) is fold_in(key, 0..2):', found)

key = jax.random.key(0)
init_key, data_key = jax.random.split(key)
weights = 0.02 * jax.random.normal(init_key, (4,))
noise = jax.random.normal(jax.random.fold_in(key, 0), (4,))
print('weights        ', weights)
print('noise of step 0', noise)
try:
  jax.random.split(key)
  refused = False
except jax.errors.KeyReuseError:
  refused = True
print('the checker refuses a second split:', refused)

rngs = nnx.Rngs(0)
drawn = [words(rngs.params()) for _ in range(2)]
split = words(jax.random.split(jax.random.key(0)))
print('Rngs(0)', drawn, 'split', split)
if list(found.values()) != [True, True, False]:
  sys.exit('changed: fold_in and split give other keys')
if not np.allclose(weights, 0.02 * noise) or not refused:
  sys.exit('changed: other draws, or the checker takes a second split')
if drawn != split:
  sys.exit('changed: nnx.Rngs draws other keys than split')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# split(key, 3) is fold_in(key, 0..2): {'threefry2x32': True, 'rbg': True,
#   'threefry2x32, not partitionable': False}
# weights         [ 0.02008029 -0.01812674 -0.01496344 -0.02342734]
# noise of step 0 [ 1.0040143 -0.9063372 -0.7481722 -1.1713669]
# the checker refuses a second split: True
# Rngs(0) [[1797259609, 2579123966], [928981903, 3453687069]]
#   split [[1797259609, 2579123966], [928981903, 3453687069]]
