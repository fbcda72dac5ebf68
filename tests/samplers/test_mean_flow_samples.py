"""Images in a few jumps, as pMF's public code draws them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.mean_flow import average_of, guided_average
from pixeldit_jax.samplers.solvers import all_states, jump


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.mark.slow
@pytest.mark.parametrize('steps', [1, 2, 4])
def test_jumps_are_the_public_codes(golden, assert_close, steps):
  arrays = golden('one_step')
  model = from_official(arrays.below('w'), 'pmf')
  arrays = arrays.below('sample')
  interval = 1 - float(arrays['t_max']), 1 - float(arrays['t_min'])
  average = guided_average(
    model, jnp.asarray(arrays['y']), float(arrays['omega']), interval
  )
  path = jax.jit(lambda x: jump(average, x, time_grid(steps), all_states))(
    nhwc(arrays['z'])
  )
  for i, state in enumerate(path, 1):
    if (name := f'step{i}_of_{steps}') in arrays:
      assert_close(state, nhwc(arrays[name]))
  assert f'step{steps}_of_{steps}' in arrays


def test_a_network_of_velocities_alone_is_refused():
  model = abstract_model(ModelConfig(**preset('pixeldit', 'B')))
  with pytest.raises(UserError, match="model.mean_flow='none'"):
    average_of(model)
