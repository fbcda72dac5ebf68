"""What is shared by the optimizers: the average of the weights."""

import jax.numpy as jnp
import pytest

from pixeldit_jax.train.optim.optimizer import update_ema


def test_an_average_of_other_shapes_is_no_average():
  """[1, 3] and [2, 3] would broadcast, and change the average's shape."""
  step = jnp.int32(9)
  ema, weights = {'w': jnp.zeros((1, 3))}, {'w': jnp.ones((2, 3))}
  with pytest.raises(AssertionError, match='shape'):
    update_ema(ema, weights, step, 0.9, warmup=False)
  new = update_ema(weights, {'w': jnp.zeros((2, 3))}, step, 0.9, warmup=False)
  assert new['w'].shape == (2, 3) and abs(float(new['w'][0, 0]) - 0.9) < 1e-6
