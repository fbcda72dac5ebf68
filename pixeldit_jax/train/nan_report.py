"""Finds the tensors of a step that are not finite, by running it again.

Compiled only when something is wrong. A step that was not finite changed no
weight and no moment, so the state after it still gives the same numbers.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.encoders.frozen import FrozenConfig, JudgeConfig
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.diffusion import network_input
from pixeldit_jax.train.repa import AlignmentTarget
from pixeldit_jax.train.state import TrainState
from pixeldit_jax.train.step import (
  make_condition,
  make_gradients,
  sample_training_inputs,
)
from pixeldit_jax.typing import PyTree

_SHOWN = 10  # names
_ORDER = ('images', 'patch_blocks', 'pixel_blocks', 'prediction')


class Networks(NamedTuple):
  """The frozen networks of a step, as `make_gradients` takes them.

  Attributes:
    target: what REPA aligns with.
    encoder: that grounds.
    judges: of perceptual losses, by name.
  """

  target: AlignmentTarget | None = None
  encoder: FrozenConfig | None = None
  judges: Mapping[str, JudgeConfig] | None = None


def report(
  context: RunContext,
  networks: Networks,
  frozen: tuple[PyTree, ...],
  state: TrainState,
  batch: PyTree,
) -> str:
  """Names what was not finite in the step just done, a line for each kind.

  Args:
    context: configuration, network and mesh.
    networks: those that are frozen.
    frozen: the weights of each, if it has any.
    state: after the step.
    batch: of the step, on the devices.
  """
  with context.use(), jax.transfer_guard('allow'):
    check = jax.jit(_make_check(context, networks))
    found = jax.device_get(check(state, batch, *frozen))
  lines = [
    _listed('weights', found['weights']),
    _first_output(found['outputs']),
    _listed('losses', found['losses']),
    _listed('gradients', found['gradients']),
  ]
  return '\n'.join(filter(None, lines)) or 'It was finite again.'


def _make_check(context, networks):
  """f(state, batch, *frozen) -> whether each tensor of the step is finite."""
  graphdef = nnx.graphdef(abstract_model(context.model))
  gradients_of = make_gradients(context, *networks)
  condition_of = make_condition(context, networks.encoder)

  def check(state, batch, teacher, encoder, judges):
    step = state.step - 1
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
    inputs = sample_training_inputs(key, batch, context.config)
    x, t = network_input(context.config, inputs)
    model = nnx.merge(graphdef, state.weights)
    condition = condition_of(x, inputs, encoder)
    prediction, blocks = model.with_features(x, t, condition)
    losses, gradients = gradients_of(
      state.trained, inputs, teacher, step, encoder, judges
    )
    outputs = {path: jax.vmap(_finite)(out) for path, out in blocks.items()}
    return dict(
      weights=jax.tree.map(_finite, state.trained),
      # One flag for each block, as they are stacked.
      outputs=outputs | dict(images=_finite(x), prediction=_finite(prediction)),
      losses=jax.tree.map(_finite, losses),
      gradients=jax.tree.map(_finite, gradients),
    )

  return check


def _finite(a):
  return jnp.isfinite(a).all()


def _first_output(outputs):
  """The first output of the network that is not finite, with its block."""
  for path in _ORDER:
    bad = np.flatnonzero(~np.atleast_1d(outputs.get(path, True)))
    if bad.size:
      block = f'[{bad[0]}]' if outputs[path].ndim else ''
      return f'first output that is not finite: {path}{block}'
  return None


def _listed(kind, tree):
  """The names of the tensors that are not finite, at most `_SHOWN`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  bad = ['.'.join(key.key for key in path) for path, ok in leaves if not ok]
  if not bad:
    return None
  more = ', ...' if bad[_SHOWN:] else ''
  return (
    f'{kind} that are not finite, {len(bad)} of {len(leaves)}: '
    f'{", ".join(bad[:_SHOWN])}{more}'
  )
