#!/usr/bin/env bash
# jax 0.10.2, on a CPU.
#
# Expected: jnp.histogram counts each value in one bin, as numpy.histogram does:
# of 100,000 values the counts add up to 100,000. Its documentation has "the
# aggregated data" and, for integers, counts such as 3.
#
# What happens: counts are sums of ones in the type of the VALUES. In bfloat16
# 256 + 1 is 256: a bin stops at 256, in float16 at 2,048, and in float32, which
# integers are turned into too, at 16,777,216. A histogram of 100,000 bfloat16
# weights or activations holds 2,083 of them and is flat between its ends; one
# of the bytes of images counts no white beyond that of 86 pictures of 256 x 256
# pixels. Nothing warns. jnp.bincount counts in integers and is right.
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

print('jax', jax.__version__)
values = jax.random.normal(jax.random.key(0), (100_000,), jnp.float32)
totals = {}
for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
  counts, _ = jnp.histogram(values.astype(dtype), bins=10)
  totals[dtype] = int(np.asarray(counts, np.float64).sum())
  print(dtype.__name__, 'counts', *np.asarray(counts, int), counts.dtype)
print('of 100000 normal values:', *totals.values())

pixels = np.full(20_000_000, 255, np.uint8)
want = np.histogram(pixels, 256, (0, 256))[0][-1]
found = int(jnp.histogram(pixels, 256, (0, 256))[0][-1])
right = int(jnp.bincount(pixels, length=256)[-1])
print('white: numpy', want, 'jax', found, 'bincount', right)
if list(totals.values())[0] != 100_000 or right != want:
  sys.exit('changed: float32 or bincount are wrong about these')
if totals[jnp.bfloat16] > 2560 or found != 2**24:
  sys.exit('changed: all values are counted')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# float32 counts 18 517 4355 16804 32425 29667 13130 2766 304 14 float32
# float16 counts 18 517 2048 2048 2048 2048 2048 2048 308 14 float16
# bfloat16 counts 19 256 256 256 256 256 256 256 256 16 bfloat16
# of 100000 normal values: 100000 13145 2083
# white: numpy 20000000 jax 16777216 bincount 20000000
