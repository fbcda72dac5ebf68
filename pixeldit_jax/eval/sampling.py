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
from pixeldit_jax.typing import Int, PyTree, UInt8

# f(weights, indices [B], labels [B]) -> uint8 [B, H, W, C]
SampleFn = Callable[[PyTree, jax.Array, jax.Array], jax.Array]


def make_sample_fn(
  config: ConfigDict, mesh: Mesh, *, path: bool = False
) -> SampleFn:
  """The compiled sampler of `config.sampler`, batches split over the mesh.

  With `path`, it gives the noise and what each step makes of it [B, steps + 1,
  H, W, C] in place of the images alone.

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
    noise = sample_noise(seed, indices, shape)
    images = solver(velocity, noise, times, path)
    if path:
      images = jnp.concatenate([noise[None], images]).swapaxes(0, 1)
    return to_uint8(images)

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


def whole_batch(
  config: ConfigDict, mesh: Mesh, batch_size: int | None = None
) -> int:
  """`config.sampler.batch_size`, or another, rounded up to fill the devices."""
  devices = sharding.batch_shards(mesh, sharding.make_rules(config.mesh))
  return -(-(batch_size or config.sampler.batch_size) // devices) * devices


def sample_images(
  config: ConfigDict,
  mesh: Mesh,
  sample: SampleFn,
  weights: PyTree,
  indices: Int[np.ndarray, 'N'],
  labels: Int[np.ndarray, 'N'],
  batch_size: int | None = None,
) -> Iterator[UInt8[np.ndarray, 'B H W C']]:
  """Batches of images in the order of `indices`, in all processes alike.

  While one batch is looked at, the devices make the next.

  Args:
    config: of `sample`, which is from `make_sample_fn`.
    mesh: that of `sample`.
    sample: the sampler.
    weights: placed on the mesh.
    indices: the places of the images in the sample set.
    labels: the class of each.
    batch_size: made at once, see `whole_batch`; the images do not depend on it.
  """
  size = whole_batch(config, mesh, batch_size)
  place = sharding.batch_sharding(mesh, sharding.make_rules(config.mesh))

  def put(x):
    # One program for all batches: the last one is filled up and cut.
    whole = np.zeros(size, np.int32)
    whole[: len(x)] = x
    return jax.make_array_from_callback((size,), place, lambda i: whole[i])

  under_way = None
  for start in range(0, len(indices), size):
    part = slice(start, start + size)
    images = sample(weights, put(indices[part]), put(labels[part]))
    if under_way:
      yield _fetch(*under_way)
    under_way = images, len(indices[part])
  if under_way:
    yield _fetch(*under_way)


def _fetch(images: jax.Array, count: int) -> np.ndarray:
  return jax.device_get(images)[:count]
