"""A step that was not finite is run again to name where that came from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.nan_report import Networks, report
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import init_state


@pytest.mark.slow
def test_the_first_layer_with_a_nan_is_named():
  config = get_config()
  make_debug(config)
  config.model.update(width=16, patch_depth=3)
  context = RunContext.build(config, jax.devices()[:1])
  tx = make_optimizer(context)
  state = jax.jit(lambda: init_state(context.model, tx, 0))()
  layer = state.weights['patch_blocks']['mlp']['down']
  layer['kernel'] = layer['kernel'].at[1].set(jnp.nan)
  batch = dict(
    image=np.zeros((8, 28, 28, 3), np.uint8), label=np.zeros(8, np.int32)
  )
  state = state.replace(step=jnp.int32(1), bad_steps=jnp.int32(1))
  weights, output, losses, gradients = report(
    context, Networks(), (None, None, None), state, batch
  ).splitlines()
  assert weights.startswith('weights that are not finite, 1 of ')
  assert weights.endswith(': patch_blocks.mlp.down.kernel')
  assert output == 'first output that is not finite: patch_blocks[1]'
  assert losses == 'losses that are not finite, 1 of 1: loss'
  assert gradients.startswith('gradients that are not finite, ')
