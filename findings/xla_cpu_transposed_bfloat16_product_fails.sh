#!/usr/bin/env bash
# jax 0.10.2 (jaxlib 0.10.2), on an x86-64 CPU with AVX512-BF16 (an AMD EPYC of
# Zen 4); jax 0.12.0.1 does the same.
#
# Expected: a product of bfloat16 arrays with preferred_element_type=float32,
# "the type to accumulate into" in the documentation of jax.lax.dot_general, can
# be transposed as any other array.
#
# What happens: compiled together with the transposition it raises, as it runs,
# "UNIMPLEMENTED: Unsupported element type for DotThunk::Execute: BF16 x BF16 =
# F32". The product by itself is a kernel of YNNPACK, at twice the rate of float32.
# XLA keeps it in bfloat16 for that, then makes one product of another layout of
# it and the transposition, which YNNPACK does not take and XLA's own kernel
# does not know. Without preferred_element_type it runs, and so it does with an
# optimization_barrier in between.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2
export JAX_PLATFORMS=cpu

cat >"$folder/try.py" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np

print('jax', jax.__version__)
if 'avx512_bf16' not in open('/proc/cpuinfo').read():
  sys.exit('not tried: this CPU has no AVX512-BF16')

rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(256, 768)), jnp.bfloat16)
w = jnp.asarray(rng.normal(size=(768, 512)), jnp.bfloat16)
expected = np.asarray(x, np.float32) @ np.asarray(w, np.float32)


def product(x, w, **options):
  return jnp.matmul(x, w, **options)


def in_float32(x, w):
  return product(x, w, preferred_element_type=jnp.float32)


ways = {
  'product': lambda x, w: in_float32(x, w),
  'transposed': lambda x, w: in_float32(x, w).T,
  'transposed, result in bfloat16': lambda x, w: product(x, w).T,
  'barrier, transposed': lambda x, w: (
    jax.lax.optimization_barrier(in_float32(x, w)).T
  ),
}
failed = []
for name, way in ways.items():
  try:
    found = np.asarray(jax.jit(way)(x, w), np.float32)
  except jax.errors.JaxRuntimeError as error:
    print(f'{name}: {error}')
    failed.append(name)
    continue
  found = found if name == 'product' else found.T
  print(f'{name}: off by {abs(found - expected).max():.2g} at most')
if failed != ['transposed']:
  sys.exit(f'changed: what fails is {failed}')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen, of 0.10.2 and of 0.12.0.1:
# product: off by 7.2e-05 at most
# transposed: UNIMPLEMENTED: Unsupported element type for DotThunk::Execute:
#   BF16 x BF16 = F32
# transposed, result in bfloat16: off by 0.25 at most (0.12.0.1: 5.4, see
#   xla_cpu_transposed_bfloat16_product_rounds_sums.sh)
# barrier, transposed: off by 7.2e-05 at most
