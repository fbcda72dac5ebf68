"""DiT's whole trajectories, as its public code draws them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.flow.diffusion import linear_diffusion, respaced
from pixeldit_jax.samplers.ddpm import ddim, ddpm, guide_noise
from pixeldit_jax.samplers.solvers import all_states


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, -3, -1))


def guided(model, y, scale):
  """f(x, t) of both branches, the second's state replaced by the first's."""
  null = jnp.full_like(y, model.config.num_classes)

  def predict(x, t):
    half = x[: len(y)]
    branches = [model(half, t, labels) for labels in (y, null)]
    return jnp.concatenate(guide_noise(*branches, scale))

  return predict


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['ddpm8_cfg', 'ddpm5', 'ddim_eta0', 'ddim_eta1']
)
def test_trajectories_are_the_public_codes(golden, assert_close, name):
  arrays = golden('rivals/dit')
  run = next(r for r in arrays.meta['runs'] if r['name'] == name)
  model = from_official(arrays.below('w'), 'dit', num_heads=2)
  arrays = arrays.below(f'sample/{name}')
  y = jnp.asarray(arrays['y'], jnp.int32)
  noise, z = nhwc(arrays['noise']), nhwc(arrays['step_noise'])
  diffusion = respaced(linear_diffusion(), run['respacing'])
  predict = lambda x, t: model(x, t, y)  # noqa: E731
  if run['cfg'] != 1:
    noise = jnp.concatenate([noise, noise])
    predict = guided(model, y, run['cfg'])

  @jax.jit
  def draw(noise):
    more = dict(eta=run['eta']) if run['kind'] == 'ddim' else {}
    solve = ddim if run['kind'] == 'ddim' else ddpm
    return solve(predict, noise, diffusion, lambda i: z[i], all_states, **more)

  path = draw(noise)
  for state, expected in zip(path, arrays['traj']):
    assert_close(state, nhwc(expected))
  assert_close(path[-1][: len(y)], nhwc(arrays['out']))
  t = len(diffusion.kept) - 1
  first = predict(noise, jnp.float32(diffusion.kept[t]))
  data = diffusion.data_from(noise, jnp.split(first, 2, -1)[0], jnp.int32(t))
  assert_close(data, nhwc(arrays['pred_xstart_first']))


def test_guidance_is_of_three_channels(golden, assert_close):
  arrays = golden('rivals/dit')
  model = from_official(arrays.below('w'), 'dit', num_heads=2)
  scale = arrays.meta['train']['cfg']
  arrays = arrays.below('cfg')
  y = jnp.asarray(arrays['y'], jnp.int32)
  t = jnp.float32(arrays['t'][0])
  assert_close(
    guided(model, y, scale)(nhwc(arrays['x']), t), nhwc(arrays['out'])
  )


def test_the_last_step_uses_no_noise():
  diffusion = respaced(linear_diffusion(), 4)
  x = jnp.ones((1, 2, 2, 1))

  def draw(last):
    noise = lambda i: jnp.where(i == 3, last, 0.5) * x  # noqa: E731
    predict = lambda x, t: jnp.concatenate([x, x], -1)  # noqa: E731
    return ddpm(predict, x, diffusion, noise)

  np.testing.assert_array_equal(draw(0.0), draw(100.0))
