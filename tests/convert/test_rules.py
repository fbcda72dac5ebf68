"""Patterns move axes as einops does, and back."""

import numpy as np
import pytest

from pixeldit_jax.convert.rules import (
  Rule,
  rearrange,
  shape_of,
  to_native,
  to_released,
)

SIZES = dict(D=6, N=2, J=3, S=3, i=2, L=5)


@pytest.mark.parametrize(
  'pattern',
  [
    'D L -> L D',
    '(S N J i) D -> D S (N i J)',
    '1 L D -> L D',
    'D L 1 1 -> (L D)',
  ],
)
def test_patterns_are_those_of_einops(pattern):
  einops = pytest.importorskip('einops')
  source, target = pattern.split(' -> ')
  shape = shape_of(source, SIZES)
  array = np.arange(np.prod(shape)).reshape(shape)
  sizes = {name: n for name, n in SIZES.items() if name in pattern}
  expected = einops.rearrange(array, pattern, **sizes)
  found = rearrange(array, source, target, SIZES)
  np.testing.assert_array_equal(found, expected)
  back = rearrange(found, target, source, SIZES)
  np.testing.assert_array_equal(back, array)


def test_blocks_and_parts_are_stacked_and_taken_apart(same_bits):
  rule = Rule('blocks/up/kernel', ('b.{i}.w1', 'b.{i}.w3'), 'S D L -> L S D')
  sizes = SIZES | dict(S=2)
  rng = np.random.default_rng(0)
  released = {
    f'b.{i}.{name}': rng.normal(size=(6, 5)).astype(np.float32)
    for i in range(4)
    for name in ('w1', 'w3')
  }
  native = to_native([rule], released, sizes, {'blocks': 4})
  kernel = native['blocks/up/kernel']
  assert kernel.shape == (4, 5, 2, 6)
  np.testing.assert_array_equal(kernel[2, :, 1], released['b.2.w3'].T)
  same_bits(to_released([rule], native, sizes, {'blocks': 4}), released)
