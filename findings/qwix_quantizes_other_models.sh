#!/usr/bin/env bash
# qwix 0.1.8 with jax 0.10.2 and flax 0.12.8, on a CPU.
#
# Expected: qwix.quantize_model(model, provider, x) returns a quantized copy, and
# makes "a copy of the model to avoid modifying the original model" (its
# comments); the copy multiplies in the type that the rule names.
#
# What happens, for a layer that multiplies by `x @ w`: it depends on who is
# called first. After the copy was called, the ORIGINAL gives the rounded
# results, and so does any other product of these shapes in the process; if the
# original was called before, the copy is not rounded at all. Nothing is said.
#
# jnp.matmul, jnp.dot and jnp.tensordot are jitted, and JAX keeps their traces by
# shapes. The copy replaces jax.lax.dot_general while it runs, which is in these
# traces, or is not. (jnp.einsum and nnx.Linear are replaced themselves.)
# QtProvider(rules, disable_jit=True) avoids both, but runs all jitted functions
# inside the model without jit.
#
# And: a quantized nnx.Linear(64, 64) refuses a batch [64, 64], but no other, by
# "AssertionError: lhs and rhs cannot be both weights": what is a weight is
# guessed from its shape.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 flax==0.12.8 qwix==0.1.8
export JAX_PLATFORMS=cpu

cat >"$folder/try.py" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import qwix
from flax import nnx

F8 = jnp.float8_e4m3fn
RULE = qwix.QtRule(weight_qtype=F8, act_qtype=F8)


class Layer(nnx.Module):
  def __init__(self, outputs):
    key = jax.random.key(0)
    self.w = nnx.Param(jax.random.normal(key, (16, outputs)))

  def __call__(self, x):
    return x @ self.w[...]


def is_rounded(layer, x):
  exact = jnp.einsum('bi,io->bo', x, layer.w[...])
  return bool(jnp.abs(layer(x) - exact).max() > 1e-3)


x = jax.random.normal(jax.random.key(1), (4, 16))
found = {}
layer = Layer(32)
copy = qwix.quantize_model(layer, qwix.QtProvider([RULE]), x)
found['copy called first'] = is_rounded(copy, x), is_rounded(layer, x)
layer = Layer(8)
layer(x)
copy = qwix.quantize_model(layer, qwix.QtProvider([RULE]), x)
found['original called first'] = is_rounded(copy, x), is_rounded(layer, x)
print('(copy, original) is rounded:', found)

linear = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
linear = qwix.quantize_model(linear, qwix.QtProvider([RULE]), jnp.ones((8, 64)))
linear(jnp.ones((63, 64)))
try:
  linear(jnp.ones((64, 64)))
  refused = ''
except AssertionError as error:
  refused = str(error)
print('a batch of 64:', refused)

if list(found.values()) != [(True, True), (False, False)]:
  sys.exit('changed: what is rounded no longer depends on the order')
if not refused:
  sys.exit('changed: a square batch is taken')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# (copy, original) is rounded: {'copy called first': (True, True),
#   'original called first': (False, False)}
# a batch of 64: lhs and rhs cannot be both weights.
