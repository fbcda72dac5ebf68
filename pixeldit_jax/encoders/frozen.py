"""The frozen networks of a run.

The teacher of REPA, the encoder that grounds: their weights are arguments of
the compiled programs, and neither in the state of a run nor in its checkpoints.
"""

from typing import overload

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pixeldit_jax import sharding
from pixeldit_jax.encoders import dinov3, efficientnet_lite, vision
from pixeldit_jax.encoders.convnext import ConvNeXt, ConvNeXtConfig
from pixeldit_jax.encoders.dinov3 import DINOv3Config, of_width
from pixeldit_jax.encoders.efficientnet_lite import EfficientNetConfig
from pixeldit_jax.encoders.lpips import LPIPS, LPIPSConfig
from pixeldit_jax.encoders.vision import (
  PatchConfig,
  PatchNetwork,
  abstract_network,
  make_network,
)
from pixeldit_jax.model.pixeldit import axes_of, weights_of
from pixeldit_jax.typing import PyTree

FrozenConfig = PatchConfig
# A frozen network and its weights in host memory.
Frozen = tuple[FrozenConfig, PyTree]
# One that images are judged by, see `train.objective`.
JudgeConfig = FrozenConfig | LPIPSConfig | ConvNeXtConfig
Judge = tuple[JudgeConfig, PyTree]


@overload
def with_weights(config: FrozenConfig, weights: PyTree) -> PatchNetwork: ...
@overload
def with_weights(config: LPIPSConfig, weights: PyTree) -> LPIPS: ...
@overload
def with_weights(config: ConvNeXtConfig, weights: PyTree) -> ConvNeXt: ...
def with_weights(config, weights):
  """The network that has these weights."""
  return nnx.merge(nnx.graphdef(abstract_network(config)), weights)


def random_encoder(width: int, **overrides) -> Frozen:
  """A DINOv3 of a width that has learnt nothing, the same always.

  It has a released size where there is one of that width, and is small else.
  """
  config = of_width(width, **overrides)
  weights = jax.jit(
    lambda: weights_of(make_network(config, rngs=nnx.Rngs(0)))
  )()
  return config, jax.device_get(weights)


def encoder_flops(config: FrozenConfig, grid: tuple[int, int]) -> int:
  """Operations of one image of so many patches down and across."""
  size = [n * config.patch_size for n in grid]
  if isinstance(config, EfficientNetConfig):
    return efficientnet_lite.patch_flops(*size)
  if isinstance(config, DINOv3Config):
    return dinov3.forward_flops(config, *size)
  return vision.forward_flops(config, *size)


def abstract_frozen(
  config: JudgeConfig, mesh: Mesh, rules: sharding.Rules | None
) -> PyTree:
  """Shapes and shardings of its weights; without rules they are replicated."""
  network = abstract_network(config)
  shapes = weights_of(network)
  if rules is None:
    shardings = jax.tree.map(lambda _: sharding.replicated(mesh), shapes)
  else:
    shardings = sharding.weight_shardings(axes_of(network), mesh, rules)
  return sharding.with_shardings(shapes, shardings)


def put_frozen(
  frozen: Frozen | Judge, mesh: Mesh, rules: sharding.Rules | None
) -> PyTree:
  """Puts the weights of a network on a mesh; without rules, replicated."""
  config, weights = frozen
  return jax.tree.map(
    # Every process has all of them, and takes its own part.
    lambda a, abstract: jax.make_array_from_callback(
      a.shape, abstract.sharding, lambda index: np.asarray(a[index])
    ),
    weights,
    abstract_frozen(config, mesh, rules),
  )
