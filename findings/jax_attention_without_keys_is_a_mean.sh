#!/usr/bin/env bash
# jax 0.10.2, on a CPU.
#
# Expected: a query whose mask allows no key (an empty prompt, a row of padding)
# gets zeros from jax.nn.dot_product_attention, or NaN, as the softmax of nothing.
#
# What happens: masked scores are a large finite negative number, all of them
# alike, so the softmax is uniform: the query gets the plain mean of ALL values,
# those that the mask forbids. Nothing is NaN; an empty prompt is conditioned on
# whatever stands in the padding, and gradients flow into it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2
export JAX_PLATFORMS=cpu

cat >"$folder/try.py" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np

query = jnp.ones((1, 1, 1, 4))
keys = jnp.arange(12.0).reshape(1, 3, 1, 4)
values = jnp.arange(12.0).reshape(1, 3, 1, 4)
mask = jnp.zeros((1, 1, 1, 3), bool)


def attend(values):
  return jax.nn.dot_product_attention(query, keys, values, mask=mask)


print('jax', jax.__version__)
found = np.asarray(attend(values)).ravel()
slope = np.asarray(jax.grad(lambda v: attend(v).sum())(values)).ravel()
print('values 0..11, none allowed:', found)
print('gradient of the values:', slope[:4], '...')
mean = np.asarray(values.mean(1)).ravel()
if not np.allclose(found, mean) or not np.allclose(slope, 1 / 3):
  sys.exit('changed: the result is no longer the mean of all values')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# values 0..11, none allowed: [4.        5.        6.        7.0000005]
# gradient of the values: [0.33333334 0.33333334 0.33333334 0.33333334] ...
