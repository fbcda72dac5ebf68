"""The weights of a checkpoint among the settings that decide an image.

Weights are known by their bits, however they are sharded.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pixeldit_jax.sampling.weak_network import find_weak
from pixeldit_jax.train.checkpoint.restore import CheckpointRef
from pixeldit_jax.typing import PyTree


def image_settings(
  config: ConfigDict, weights: PyTree, ref: CheckpointRef
) -> dict[str, Any]:
  """Everything that decides an image but its index, label and prompt, as JSON.

  Args:
    config: that of the run, with the sampler and seed to use.
    weights: of the network, as `restore_weights` reads them.
    ref: where they are from, with the number of the step.
  """
  sampler = config.sampler.to_dict()
  sampler.pop('batch_size')
  more: dict[str, Any] = {}
  if config.model.grounding_width:
    more = dict(encoder=config.grounding.encoder)
  if config.latents.autoencoder:
    more |= dict(autoencoder=config.latents.autoencoder)
  if weak := find_weak(config):
    more |= dict(weak_step=weak[0].step)
  if config.model.size_embed:
    more |= dict(stages=config.flow.stages)
  if config.model.products != 'dtype':
    more |= dict(products=config.model.products)
  return dict(
    sampler=sampler,
    seed=config.seed,
    resolution=config.data.resolution,
    dtype=config.model.dtype,
    weights=fingerprint(weights),
    step=ref.step,
    ema=ref.ema,
    **more,
  )


def fingerprint(weights: PyTree) -> str:
  """16 hexadecimal digits that change with any bit of any weight.

  Sums of integers do not depend on their order, so any mesh gives the same.
  """
  leaves = jax.tree.leaves_with_path(weights)
  names = [jax.tree_util.keystr(path) for path, _ in leaves]
  sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
  text = [f'{name} {value}' for name, value in zip(names, sums)]
  return hashlib.sha256('\n'.join(text).encode()).hexdigest()[:16]


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
  return [_sum(leaf) for leaf in leaves]


def _sum(leaf: jax.Array) -> jax.Array:
  """Sum modulo 2^32 of the bits, each times an odd number of its position."""
  bits = jnp.dtype(f'uint{8 * leaf.dtype.itemsize}')
  words = jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32)
  position = jnp.zeros_like(words)
  for axis in range(leaf.ndim):
    index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    position = position * jnp.uint32(0x9E3779B1) + index
  return jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)
