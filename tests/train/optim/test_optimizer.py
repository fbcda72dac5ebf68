"""What is shared by the optimizers: rates, and the average of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.optim.optimizer import make_optimizer, update_ema
from pixeldit_jax.train.state import init_state


@pytest.mark.slow
@pytest.mark.parametrize('text', [False, True])
def test_the_rest_may_learn_more_slowly_than_classes_and_texts(text):
  config = get_config()
  if text:
    config.model.update(num_classes=0, text_width=8)
  make_debug(config)
  directions = []
  for rate in (1.0, 0.25):
    config.optimizer.rest_rate = rate
    context = RunContext.build(config)
    tx = make_optimizer(context)
    state = init_state(context.model, tx, 0)
    ones = jax.tree.map(jnp.ones_like, state.weights)
    directions.append(tx.update(ones, state.opt_state, state.weights)[0])
  names = set()
  for (path, full), slow in zip(
    jax.tree.leaves_with_path(directions[0]), jax.tree.leaves(directions[1])
  ):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    of_condition = 'class_embed' in name or 'text' in name
    names.add(of_condition)
    factor = 1 if of_condition else 0.25
    np.testing.assert_allclose(slow, factor * full, rtol=1e-6, err_msg=name)
  assert names == {True, False}


def test_an_average_of_other_shapes_is_no_average():
  """[1, 3] and [2, 3] would broadcast, and change the average's shape."""
  step = jnp.int32(9)
  ema, weights = {'w': jnp.zeros((1, 3))}, {'w': jnp.ones((2, 3))}
  with pytest.raises(AssertionError, match='shape'):
    update_ema(ema, weights, step, 0.9, warmup=False)
  new = update_ema(weights, {'w': jnp.zeros((2, 3))}, step, 0.9, warmup=False)
  assert new['w'].shape == (2, 3) and abs(float(new['w'][0, 0]) - 0.9) < 1e-6
