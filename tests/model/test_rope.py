"""Rotary positions: pairs turn by their angles."""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.model import rope


def test_pairs_turn_as_complex_numbers():
  """Channel i with i + K/2: even pairs by the column, odd by the row."""
  K = 24
  x = jax.random.normal(jax.random.key(0), (2, 12, 3, K), jnp.float32)
  x64 = np.asarray(x, np.float64)
  row, column = np.divmod(np.arange(12), 4)
  places = np.stack([column / 3, row / 2], 1)[:, None, :] * rope.SPAN
  frequencies = rope.THETA ** (-4.0 * np.arange(K // 4) / K)
  angles = (places * frequencies[:, None]).reshape(12, 1, K // 2)
  turned = (x64[..., : K // 2] + 1j * x64[..., K // 2 :]) * np.exp(1j * angles)
  expected = np.concatenate([turned.real, turned.imag], -1)
  np.testing.assert_allclose(
    rope.rotate(x, rope.rotary_2d(3, 4, K)), expected, atol=1e-5
  )
