"""REPA in a run: the teacher, its weight over time, the loss."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax import files
from pixeldit_jax.config import STORED_FEATURES
from pixeldit_jax.convert.vision import load_vision
from pixeldit_jax.data.source import Source
from pixeldit_jax.encoders.frozen import Frozen, FrozenConfig, with_weights
from pixeldit_jax.encoders.vision import teacher_features
from pixeldit_jax.flow.repa import abstract_projector, repa_loss
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class StoredFeatures:
  """The teacher's features are stored with the data: `batch['features']`.

  Attributes:
    width: G, of the features of one patch.
    grid: patches down and across.
  """

  width: int
  grid: tuple[int, int]


# The target of alignment: a teacher that sees each batch, or its features.
AlignmentTarget = FrozenConfig | StoredFeatures


def load_teacher(config: ConfigDict) -> Frozen | None:
  """Reads the teacher of a run; None if it needs none.

  Raises:
    UserError: see `load_vision`.
  """
  if not config.repa.weight or config.repa.teacher == STORED_FEATURES:
    return None
  return load_vision(
    config.repa.teacher,
    keep=files.cache_folder(),
    dtype=config.model.dtype,
    scan=config.model.scan,
    position_offset=config.repa.position_offset,
  )


def stored_arrays(config: ConfigDict) -> tuple[str, ...]:
  """The names of the arrays that a run needs of its data for alignment."""
  repa = config.repa
  stored = bool(repa.weight) and repa.teacher == STORED_FEATURES
  return (STORED_FEATURES,) if stored else ()


def find_target(
  config: ConfigDict, source: Source, teacher: Frozen | None
) -> AlignmentTarget | None:
  """The target of alignment; None without alignment or without a teacher."""
  if not config.repa.weight:
    return None
  if not stored_arrays(config):
    return teacher[0] if teacher else None
  stored = source.arrays[STORED_FEATURES]
  assert stored.shape is not None  # all features of a teacher are alike
  _, width = stored.shape
  return StoredFeatures(width, tuple(stored.meta['grid']))


def stored_shapes(
  config: ConfigDict, source: Source
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of the stored teacher features in a batch, by name."""
  B = config.data.batch_size
  arrays = {name: source.arrays[name] for name in stored_arrays(config)}
  return {
    name: jax.ShapeDtypeStruct(
      (B, *(array.shape or ())), jnp.dtype(array.dtype)
    )
    for name, array in arrays.items()
  }


def repa_weight(
  config: ConfigDict, step: Int[Array, ''] | int
) -> Float[Array, '']:
  """Constant, then falling linearly over `decay_steps` to 0 at `stop_step`."""
  repa = config.repa
  if not repa.stop_step:
    return jnp.float32(repa.weight)
  left = jnp.asarray(repa.stop_step - step, jnp.float32)
  return repa.weight * jnp.clip(left / max(1, repa.decay_steps), 0, 1)


def make_alignment(
  context: RunContext, target: AlignmentTarget
) -> Callable[..., Float[Array, '']]:
  """f(projector, patch tokens, inputs, teacher, weight) -> mean REPA loss.

  It is 0 where the weight is 0: the teacher is not run then.
  """
  model, stops = context.model, context.config.repa.stop_step
  projector_def = nnx.graphdef(abstract_projector(model, target.width))

  def features_of(inputs, teacher):
    if isinstance(target, StoredFeatures):
      return inputs.teacher_features, target.grid
    network = with_weights(target, teacher)
    features = teacher_features(network, inputs.data, model.patch_size)
    return features, model.grid(*inputs.data.shape[1:3])

  def alignment(projector, tokens, inputs, teacher, weight):
    def loss():
      features, teacher_grid = features_of(inputs, teacher)
      student = nnx.merge(projector_def, projector)(tokens)
      grid = model.grid(*inputs.data.shape[1:3])
      return jnp.mean(repa_loss(student, features, grid, teacher_grid))

    if not stops:
      return loss()
    return jax.lax.cond(weight > 0, loss, lambda: jnp.float32(0))

  return alignment
