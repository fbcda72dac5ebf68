"""Images from weights: the network, guidance and a solver as one program."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config import model_config
from pixeldit_jax.data.transforms import to_uint8
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import guide
from pixeldit_jax.samplers.noise import sample_noise
from pixeldit_jax.typing import Condition, Int, PyTree, TextCondition, UInt8

# f(weights, indices [B], condition) -> uint8 [B, H, W, C]. The condition is
# labels [B] or, of a text network, a dict: 'text' and 'negative' [B, T, C], of
# which guidance leads away from the latter (a negative prompt, or the null
# text), and with model.text_mask 'text_mask' and 'negative_mask' [B, T].
SampleFn = Callable[[PyTree, jax.Array, PyTree], jax.Array]


def make_sample_fn(
  config: ConfigDict,
  mesh: Mesh,
  *,
  size: tuple[int, int] | None = None,
  path: bool = False,
) -> SampleFn:
  """The compiled sampler of `config.sampler`, batches split over the mesh.

  Args:
    config: of the run.
    mesh: the devices.
    size: height and width of the images; the run's resolution by default.
    path: give the noise and what each step makes of it [B, steps + 1, H, W, C]
      in place of the images alone.

  Raises:
    UserError: unknown solver, impossible steps, shift or interval, or a size
      that does not divide into patches.
  """
  sampler, side = config.sampler, config.data.resolution
  size = size or (side, side)
  model_config(config).grid(*size)
  solver = solvers.named(sampler.solver)
  times = time_grid(sampler.steps, sampler.shift, sampler.start)
  shape = (*size, config.model.in_channels)
  graphdef = nnx.graphdef(abstract_model(model_config(config)))
  seed = config.seed

  def sample(weights, indices, condition):
    model = nnx.merge(graphdef, weights)
    wanted, unwanted = _branches(config, condition)
    velocity = guide(
      lambda x, t: model(x, t, wanted),
      lambda x, t: model(x, t, unwanted),
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

  def call(weights, indices, condition):
    with sharding.use(mesh, rules):
      return compiled(weights, indices, condition)

  call.jitted = compiled  # to be compiled for devices that are not there
  return call


def _branches(
  config: ConfigDict, condition: PyTree
) -> tuple[Condition, Condition]:
  """The conditions of the two networks of guidance."""
  if not config.model.text_width:
    return condition, jnp.full_like(condition, config.model.num_classes)

  def y(text, mask):
    mask = condition[mask] if config.model.text_mask else None
    return TextCondition(condition[text], mask)

  return y('text', 'text_mask'), y('negative', 'negative_mask')


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
  condition: PyTree,
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
    condition: of each, in NumPy arrays [N, ...] as `SampleFn` tells.
    batch_size: made at once, see `whole_batch`; the images do not depend on it.
  """
  size = whole_batch(config, mesh, batch_size)
  place = sharding.batch_sharding(mesh, sharding.make_rules(config.mesh))

  def put(x):
    # One program for all batches: the last one is filled up and cut.
    x = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
    whole = np.zeros((size, *x.shape[1:]), x.dtype)
    whole[: len(x)] = x
    return jax.make_array_from_callback(whole.shape, place, lambda i: whole[i])

  under_way = None
  for start in range(0, len(indices), size):
    part = slice(start, start + size)
    told = jax.tree.map(lambda x, part=part: put(x[part]), condition)
    images = sample(weights, put(indices[part]), told)
    if under_way:
      yield _fetch(*under_way)
    under_way = images, len(indices[part])
  if under_way:
    yield _fetch(*under_way)


def _fetch(images: jax.Array, count: int) -> np.ndarray:
  return jax.device_get(images)[:count]
