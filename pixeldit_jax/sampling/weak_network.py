"""The weaker network that guidance may lead away from: autoguidance.

Karras et al., arXiv 2406.02507: a smaller network, or an earlier checkpoint,
which is given the same class or text.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from pixeldit_jax.config import model_config
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run.workdir import read_config
from pixeldit_jax.typing import PyTree

# What both networks have to be given, or give, alike.
_ALIKE = ('num_classes', 'text_width', 'in_channels', 'prediction', 'time')


class WeakNetwork(NamedTuple):
  """A second network.

  Attributes:
    model: its configuration.
    weights: on the mesh.
  """

  model: ModelConfig
  weights: PyTree


def find_weak(config: ConfigDict) -> tuple[CheckpointRef, ModelConfig] | None:
  """The checkpoint of `sampler.weak`, and its network; None without one.

  Raises:
    MissingFileError: there is no such checkpoint.
    UserError: a network of other conditions or another prediction, or a sampler
      that does not draw by two velocities.
  """
  options = config.sampler
  if not options.weak:
    return None
  if (
    config.model.mean_flow != 'none'
    or options.solver == 'jump'
    or options.reuse_patch_tokens > 1
  ):
    raise UserError(
      f'sampler.weak={options.weak!r} needs a velocity of each network at each '
      'step: not with model.mean_flow, solver=jump or reuse_patch_tokens.'
    )
  ref = CheckpointRef.of_text(options.weak).resolve()
  stored = read_config(ref.workdir)
  for name in _ALIKE:
    if stored.model[name] != config.model[name]:
      raise UserError(
        f'sampler.weak={options.weak!r} has model.{name}='
        f'{stored.model[name]!r}, and this run {config.model[name]!r}: give an '
        'earlier checkpoint, or a smaller network of the same data and '
        'prediction.'
      )
  return ref, model_config(stored)


def load_weak(context: RunContext) -> WeakNetwork | None:
  """The network of `sampler.weak`, read onto the mesh; None without one.

  Raises:
    MissingFileError, UserError: see `find_weak`.
  """
  if (found := find_weak(context.config)) is None:
    return None
  ref, model = found
  weights, _ = restore_weights(ref, model, context.mesh, context.rules)
  return WeakNetwork(model, weights)
