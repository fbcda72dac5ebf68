"""Where numbers stopped being finite: a step is run again to find out.

Compiled only once something is wrong. A step that was not finite left weights
and moments as they were, so the state behind it still makes the same numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax.config import model_config
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.train.repa import Target
from pixeldit_jax.train.state import TrainState
from pixeldit_jax.train.step import draw_examples, make_gradients
from pixeldit_jax.typing import PyTree

_SHOWN = 10  # names
_ORDER = ('images', 'patch_blocks', 'pixel_blocks', 'velocity')


def describe(
  config: ConfigDict,
  target: Target | None,
  state: TrainState,
  batch: PyTree,
  teacher: PyTree,
) -> str:
  """What is not finite in the step just done, a line for each kind.

  Args:
    config: of the run.
    target: what it aligns with.
    state: after the step.
    batch: of the step.
    teacher: the weights of the target, if it has any.
  """
  test = jax.jit(_make_test(config, target))
  found = jax.device_get(test(state, batch, teacher))
  lines = [
    _listed('weights', found['weights']),
    _first_output(found['outputs']),
    _listed('losses', found['losses']),
    _listed('gradients', found['gradients']),
  ]
  return '\n'.join(filter(None, lines)) or 'It was finite again.'


def _make_test(config, target):
  """f(state, batch, teacher) -> whether each tensor of the step is finite."""
  graphdef = nnx.graphdef(abstract_model(model_config(config)))
  gradients_of = make_gradients(config, target)

  def test(state, batch, teacher):
    step = state.step - 1
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
    examples = draw_examples(key, batch, config)
    x = interpolate(examples['data'], examples['noise'], examples['t'])
    model = nnx.merge(graphdef, state.weights)
    velocity, blocks = model.with_features(x, examples['t'], examples['y'])
    losses, gradients = gradients_of(state.trained, examples, teacher, step)
    return dict(
      weights=jax.tree.map(_finite, state.trained),
      # Of each block, as they are stacked.
      outputs=dict(images=_finite(x), velocity=_finite(velocity))
      | {path: jax.vmap(_finite)(stack) for path, stack in blocks.items()},
      losses=jax.tree.map(_finite, losses),
      gradients=jax.tree.map(_finite, gradients),
    )

  return test


def _finite(a):
  return jnp.isfinite(a).all()


def _first_output(outputs):
  """The first of the network that is not finite, by its block."""
  for path in _ORDER:
    bad = np.flatnonzero(~np.atleast_1d(outputs.get(path, True)))
    if bad.size:
      block = f'[{bad[0]}]' if outputs[path].ndim else ''
      return f'first output that is not finite: {path}{block}'
  return None


def _listed(kind, tree):
  """The names of all that is not finite, or of the first few."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  bad = ['.'.join(key.key for key in path) for path, ok in leaves if not ok]
  if not bad:
    return None
  more = ', ...' if bad[_SHOWN:] else ''
  return (
    f'{kind} that are not finite, {len(bad)} of {len(leaves)}: '
    f'{", ".join(bad[:_SHOWN])}{more}'
  )
