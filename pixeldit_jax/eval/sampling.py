"""Images from weights: the network, guidance and a solver as one program."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.data.transforms import to_uint8
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import guide
from pixeldit_jax.samplers.noise import sample_noise
from pixeldit_jax.train.config import model_config
from pixeldit_jax.typing import PyTree

# f(weights, indices [B], labels [B]) -> uint8 [B, H, W, C]
SampleFn = Callable[[PyTree, jax.Array, jax.Array], jax.Array]


def make_sample_fn(config: ConfigDict, mesh: Mesh) -> SampleFn:
  """The compiled sampler of `config.sampler`, batches split over the mesh.

  Raises:
    ValueError: unknown solver, or impossible steps, shift or interval.
  """
  sampler, side = config.sampler, config.data.resolution
  solver = solvers.named(sampler.solver)
  times = time_grid(sampler.steps, sampler.shift, sampler.start)
  shape = (side, side, config.model.in_channels)
  graphdef = nnx.graphdef(abstract_model(model_config(config)))
  seed = config.seed

  def sample(weights, indices, labels):
    model = nnx.merge(graphdef, weights)
    nothing = jnp.full_like(labels, config.model.num_classes)
    velocity = guide(
      lambda x, t: model(x, t, labels),
      lambda x, t: model(x, t, nothing),
      sampler.guidance,
      sampler.interval,
    )
    return to_uint8(solver(velocity, sample_noise(seed, indices, shape), times))

  rules = sharding.make_rules(config.mesh)
  batch = sharding.batch_sharding(mesh, rules)
  compiled = jax.jit(
    sample,
    in_shardings=(None, batch, batch),
    out_shardings=sharding.replicated(mesh),
  )

  def call(weights, indices, labels):
    with sharding.use(mesh, rules):
      return compiled(weights, indices, labels)

  return call


def sample_images(
  sample: SampleFn,
  weights: PyTree,
  labels: np.ndarray,
  batch_size: int,
  mesh: Mesh,
  first: int = 0,
  rules: sharding.Rules = sharding.RULES,
) -> Iterator[np.ndarray]:
  """Batches of uint8 images [b, H, W, C], one for each label in turn.

  Args:
    sample: from `make_sample_fn`.
    weights: placed on the mesh.
    labels: of the images first, first + 1, ... of the sample set.
    batch_size: made at once, rounded up to fill the devices; the images do
      not depend on it.
    mesh: that of `sample`.
    first: index of the first image.
    rules: of `config.mesh`.
  """
  devices = sharding.batch_shards(mesh, rules)
  size = -(-batch_size // devices) * devices
  place = sharding.batch_sharding(mesh, rules)
  for start in range(0, len(labels), size):
    part = np.asarray(labels[start : start + size], np.int32)
    # One program for all batches: the last one is filled up and cut.
    padded = np.pad(part, (0, size - len(part)))
    indices = np.arange(first + start, first + start + size, dtype=np.int32)
    batch = jax.device_put((indices, padded), place)
    yield jax.device_get(sample(weights, *batch))[: len(part)]
