"""REPA in a run: what it aligns with, its weight over time, its loss.

The teacher is frozen: its weights are an argument of the step, and no part of
the state or of checkpoints.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config import STORED_FEATURES, model_config
from pixeldit_jax.convert.vision import CACHE, load_dinov2
from pixeldit_jax.data.source import Source
from pixeldit_jax.encoders.vision import (
  DINOv2,
  VisionConfig,
  teacher_features,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.repa import abstract_projector, repa_loss
from pixeldit_jax.model.pixeldit import axes_of, weights_of
from pixeldit_jax.typing import Array, Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class StoredFeatures:
  """The teacher's features lie beside the images: `batch['features']`.

  Attributes:
    width: of one feature.
    grid: patches down and across.
  """

  width: int
  grid: tuple[int, int]


# What a run aligns with: a teacher that sees each batch, or its features.
Target = VisionConfig | StoredFeatures


def load_teacher(config: ConfigDict) -> tuple[VisionConfig, PyTree] | None:
  """The teacher of a run, as `train.loop.train` takes it; None without one.

  Raises:
    FileNotFoundError, ValueError: see `load_dinov2`.
  """
  if not config.repa.weight or config.repa.teacher == STORED_FEATURES:
    return None
  return load_dinov2(
    config.repa.teacher,
    keep=CACHE.expanduser(),
    dtype=config.model.dtype,
    scan=config.model.scan,
  )


def stored_arrays(config: ConfigDict) -> tuple[str, ...]:
  """The side arrays of the data that a run needs for alignment."""
  repa = config.repa
  return (
    (STORED_FEATURES,)
    if repa.weight and repa.teacher == STORED_FEATURES
    else ()
  )


def find_target(
  config: ConfigDict,
  source: Source,
  teacher: tuple[VisionConfig, PyTree] | None,
) -> Target | None:
  """The target of a run, None where it aligns with nothing.

  Raises:
    UserError: see `check_target`.
  """
  if not stored_arrays(config):
    return check_target(config, teacher[0] if teacher else None)
  stored = source.arrays[STORED_FEATURES]
  _, width = stored.shape
  return StoredFeatures(width, tuple(stored.meta['grid']))


def stored_shapes(
  config: ConfigDict, source: Source
) -> dict[str, jax.ShapeDtypeStruct]:
  """Of the side arrays of a batch that a run needs for alignment."""
  B = config.data.batch_size
  stored = {name: source.arrays[name] for name in stored_arrays(config)}
  return {
    name: jax.ShapeDtypeStruct((B, *arrays.shape), arrays.dtype)
    for name, arrays in stored.items()
  }


def check_target(config: ConfigDict, target: Target | None) -> Target | None:
  """The target of a run, None where it aligns with nothing.

  Raises:
    UserError: the run is to align, and there is nothing to align with.
  """
  repa = config.repa
  if not repa.weight:
    return None
  if target is None:
    raise UserError(
      f'repa.weight={repa.weight} with repa.teacher={repa.teacher!r}, but '
      'train() was given no teacher. Two ways to get one: by name '
      "(load_dinov2('facebook/dinov2-base'), where there is a network) or by "
      'path (load_dinov2(FILE)); launch/train.py does it by repa.teacher. '
      'repa.weight=0 trains without.'
    )
  return target


def abstract_teacher(
  config: VisionConfig, mesh: Mesh, rules: sharding.Rules | None
) -> PyTree:
  """Shapes and places of its weights; without rules, whole everywhere."""
  network = _abstract(config)
  shapes = weights_of(network)
  places = jax.tree.map(lambda _: sharding.replicated(mesh), shapes)
  if rules is not None:
    places = sharding.weight_shardings(axes_of(network), mesh, rules)
  return sharding.with_shardings(shapes, places)


def place_teacher(
  teacher: tuple[VisionConfig, PyTree], mesh: Mesh, rules: sharding.Rules | None
) -> PyTree:
  """The weights of a teacher on a mesh; without rules, whole everywhere."""
  config, weights = teacher
  return jax.tree.map(
    # Every process has all of them, and takes its own part.
    lambda a, like: jax.make_array_from_callback(
      a.shape, like.sharding, lambda index: np.asarray(a[index])
    ),
    weights,
    abstract_teacher(config, mesh, rules),
  )


def repa_weight(config: ConfigDict, step: Int[Array, '']) -> Float[Array, '']:
  """Constant, then down in a line over `decay_steps` to 0 at `stop_step`."""
  repa = config.repa
  if not repa.stop_step:
    return jnp.float32(repa.weight)
  left = jnp.asarray(repa.stop_step - step, jnp.float32)
  return repa.weight * jnp.clip(left / max(1, repa.decay_steps), 0, 1)


def make_alignment(
  config: ConfigDict, target: Target
) -> Callable[..., Float[Array, '']]:
  """f(projector, patch tokens, examples, teacher, weight) -> mean REPA loss.

  It is 0 where the weight is: the teacher then rests.
  """
  model = model_config(config)
  projector_def = nnx.graphdef(abstract_projector(model, target.width))

  def teacher_sees(examples, teacher):
    if isinstance(target, StoredFeatures):
      return examples['features'], target.grid
    network = nnx.merge(nnx.graphdef(_abstract(target)), teacher)
    images = examples['data']
    features = teacher_features(network, images, model.patch_size)
    return features, model.grid(*images.shape[1:3])

  def alignment(projector, tokens, examples, teacher, weight):
    def loss():
      features, teacher_grid = teacher_sees(examples, teacher)
      student = nnx.merge(projector_def, projector)(tokens)
      grid = model.grid(*examples['data'].shape[1:3])
      return jnp.mean(repa_loss(student, features, grid, teacher_grid))

    if not config.repa.stop_step:
      return loss()
    return jax.lax.cond(weight > 0, loss, lambda: jnp.float32(0))

  return alignment


def _abstract(config: VisionConfig) -> DINOv2:
  return nnx.eval_shape(lambda: DINOv2(config, rngs=nnx.Rngs(0)))
