#!/usr/bin/env bash
# jax 0.12.0.1 (jaxlib 0.12.0.1, for Python 3.12 and later), on an x86-64 CPU
# with AVX512-BF16 (an AMD EPYC of Zen 4).
#
# Expected: a product of bfloat16 arrays has the same values whether or not its
# result is transposed, as the transposition moves values only. The
# documentation of jax.lax.dot_general says nothing of the sums; those of x @ w
# are in float32 here, and in jax 0.10.2 those of both are.
#
# What happens: jit(lambda x, w: (x @ w).T) adds in bfloat16. Its root mean
# square error is 12 to 18 times that of x @ w, for sums of 768 and of 65,536
# products, and it takes 2 to 12 times as long. XLA leaves the product to
# YNNPACK in bfloat16, then makes one product of another layout of it and the
# transposition, for which it has only Eigen's kernel. With an
# optimization_barrier in between the values are those of x @ w.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.13 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.12.0.1 jaxlib==0.12.0.1
export JAX_PLATFORMS=cpu

cat >"$folder/try.py" <<'PYTHON'
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

print('jax', jax.__version__)
if 'avx512_bf16' not in open('/proc/cpuinfo').read():
  sys.exit('not tried: this CPU has no AVX512-BF16')

ways = {
  'x @ w': lambda x, w: x @ w,
  '(x @ w).T': lambda x, w: (x @ w).T,
  'barrier(x @ w).T': lambda x, w: jax.lax.optimization_barrier(x @ w).T,
}
rng = np.random.default_rng(0)
for length, side in ((768, 256), (4096, 256), (65536, 64)):
  x = jnp.asarray(rng.normal(size=(side, length)), jnp.bfloat16)
  w = jnp.asarray(rng.normal(size=(length, 2 * side)), jnp.bfloat16)
  exact = np.asarray(x, np.float32) @ np.asarray(w, np.float32)
  errors = {}
  for name, way in ways.items():
    call = jax.jit(way)
    found = np.asarray(call(x, w), np.float32)
    found = found.T if name.endswith('T') else found
    errors[name] = np.sqrt(np.mean((found - exact) ** 2)) / exact.std()
    started = time.process_time()
    for _ in range(5):
      jax.block_until_ready(call(x, w))
    rate = 10 * exact.size * length / (time.process_time() - started) / 1e9
    print(f'{length} {name}: error {errors[name]:.4f}, {rate:.0f} GFLOP/s')
  if errors['barrier(x @ w).T'] > 1.1 * errors['x @ w']:
    sys.exit('changed: the barrier does not help')
  if errors['(x @ w).T'] < 5 * errors['x @ w']:
    sys.exit('changed: the values are those of x @ w')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen, on one core with other work:
# 768 x @ w: error 0.0017, 102 GFLOP/s
# 768 (x @ w).T: error 0.0198, 14 GFLOP/s
# 768 barrier(x @ w).T: error 0.0017, 165 GFLOP/s
# 65536 x @ w: error 0.0017, 60 GFLOP/s
# 65536 (x @ w).T: error 0.0242, 14 GFLOP/s
# 65536 barrier(x @ w).T: error 0.0017, 113 GFLOP/s
