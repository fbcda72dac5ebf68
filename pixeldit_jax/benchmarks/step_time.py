"""How fast this machine trains and samples, against what it could do.

Operations are those of the model (`model.cost`), not what rematerialisation
adds. The limit is the device's known bf16 peak or, where there is none in the
table, a 2048 x 2048 float32 matrix product timed between what is measured.
"""

import contextlib
import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config import STORED_FEATURES, model_config
from pixeldit_jax.encoders.frozen import Frozen, put_frozen, random_encoder
from pixeldit_jax.encoders.inception import Inception
from pixeldit_jax.encoders.vision import DINOv2, VisionConfig
from pixeldit_jax.hardware import peak_flops
from pixeldit_jax.metrics.feature_extractor import (
  FeatureNetwork,
  default_batch_size,
  inception_network,
)
from pixeldit_jax.model.cost import train_flops
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.evaluations import sampling_flops
from pixeldit_jax.sampling.conditions import abstract_conditions
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.inputs import abstract_batch
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.repa import AlignmentTarget, StoredFeatures
from pixeldit_jax.train.state import init_state, state_shardings
from pixeldit_jax.train.step import make_train_step
from pixeldit_jax.typing import PyTree

Report = dict[str, float | str]


def time_calls(
  call: Callable[[], object], count: int, between: Callable = lambda: None
) -> list[float]:
  """Seconds of each of `count` calls, after one that compiles and warms.

  `between` runs before each, and does not count.
  """
  jax.block_until_ready(call())
  seconds = []
  for _ in range(count):
    between()
    started = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - started)
  return seconds


class MatrixProduct:
  """Times a float32 matrix product of one device, a few at a time.

  They are spread over a run, so that a machine with other work to do slows them
  as it slows what they are compared with.
  """

  def __init__(self, side: int = 2048):
    self.flops = 2 * side**3
    self.seconds: list[float] = []
    self._a = jnp.ones((side, side), jnp.float32)
    self._product = jax.jit(lambda a: a @ a)

  def __call__(self) -> None:
    self.seconds += time_calls(lambda: self._product(self._a), 3)

  @property
  def rate(self) -> float:
    """Operations a second."""
    return self.flops / statistics.median(self.seconds)


def measure_training(
  config: ConfigDict, steps: int, profile: str | None = None
) -> Report:
  """Times complete training steps on random images, donated as in training.

  With REPA the teacher is a ViT-B/14 of random weights, which takes as long as
  the real one; its operations do not count as those of the model. With stored
  features there is no teacher, and the features are ones. Steps without REPA
  are timed too, to measure what it costs.

  Args:
    config: of a run.
    steps: timed, after one that is not.
    profile: a folder for a trace of the timed steps, or None.
  """
  report = _measure_steps(config, steps, profile)
  if not config.repa.weight:
    return report | dict(teacher='none')
  plain = copy.deepcopy(config)
  plain.repa.weight = 0.0
  without = _measure_steps(plain, steps, None)
  share = 1 - float(without['seconds']) / float(report['seconds'])
  return report | dict(
    teacher='stored' if config.repa.teacher == STORED_FEATURES else 'ViT-B/14',
    images_per_second_without_repa=without['images_per_second'],
    repa_share_of_step=share,
  )


def _measure_steps(
  config: ConfigDict, steps: int, profile: str | None
) -> Report:
  with training_call(config) as call:
    timed = _timed(call, steps, profile)
  B, side = config.data.batch_size, config.data.resolution
  flops = train_flops(model_config(config), side, side, config.flow.stages)
  return _report(timed, B, B * flops)


@contextlib.contextmanager
def training_call(config: ConfigDict) -> Iterator[Callable[[], object]]:
  """A complete training step on random images, to be called again and again."""
  context = RunContext.build(config).without_autoencoder()
  model, mesh, tx = context.model, context.mesh, make_optimizer(context)
  target, teacher, features = _random_target(context)
  encoder = _random_encoder(context)
  seen_by = put_frozen(encoder, mesh, None) if encoder else None
  width = target.width if target else None
  shardings = state_shardings(model, tx, mesh, context.rules, width)
  state = jax.jit(
    lambda: init_state(model, tx, config.seed, width), out_shardings=shardings
  )()
  batch = _random_arrays(abstract_batch(context.config))
  batch = sharding.put_batch(batch | features, context.batch_sharding)
  step = jax.jit(
    make_train_step(context, tx, target, encoder and encoder[0]),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )

  def call():
    nonlocal state
    state, metrics = step(state, batch, teacher, seen_by)
    return metrics

  with context.use():
    yield call


def _random_arrays(abstract: PyTree) -> PyTree:
  """Random pixels and texts that are as long as they can be; else zeros."""
  rng = np.random.default_rng(0)

  def fill(array: jax.ShapeDtypeStruct) -> np.ndarray:
    if array.dtype == jnp.uint8:
      return rng.integers(0, 256, array.shape, np.uint8)
    if jnp.issubdtype(array.dtype, jnp.floating):
      return rng.normal(size=array.shape).astype(array.dtype)
    return np.full(array.shape, array.dtype == bool, array.dtype)

  return jax.tree.map(fill, abstract)


def _random_encoder(context: RunContext) -> Frozen | None:
  """In place of the encoder that grounds; None if there is none."""
  model = context.model
  if not model.grounding_width:
    return None
  options = dict(dtype=model.dtype, scan=model.scan)
  return random_encoder(model.grounding_width, **options)


def _random_target(
  context: RunContext,
) -> tuple[AlignmentTarget | None, PyTree, dict[str, np.ndarray]]:
  """The target of REPA, the weights of a teacher, and entries of a batch."""
  config, model = context.config, context.model
  side = config.data.resolution
  if not config.repa.weight:
    return None, None, {}
  target = VisionConfig(dtype=model.dtype, scan=model.scan)
  if config.repa.teacher == STORED_FEATURES:
    grid = model.grid(side, side)
    shape = config.data.batch_size, math.prod(grid), target.width
    features = {STORED_FEATURES: np.ones(shape, jnp.bfloat16)}
    return StoredFeatures(target.width, grid), None, features
  random = weights_of(DINOv2(target, rngs=nnx.Rngs(0)))
  return target, put_frozen((target, random), context.mesh, None), {}


def measure_sampling(
  config: ConfigDict, count: int, profile: str | None = None
) -> Report:
  """Times complete sampling loops of `config.sampler` from random weights.

  Guided evaluations count twice; at the ends of the interval, once.
  """
  with sampling_call(config) as call:
    timed = _timed(call, count, profile)
  B = config.sampler.batch_size
  return _report(timed, B, B * sampling_flops(config, model_config(config)))


@contextlib.contextmanager
def sampling_call(config: ConfigDict) -> Iterator[Callable[[], object]]:
  """A complete sampling loop from random weights, to be called again."""
  context = RunContext.build(config).without_autoencoder()
  model, tx = context.model, make_optimizer(context)
  shardings = state_shardings(model, tx, context.mesh, context.rules)
  weights = jax.jit(
    lambda: init_state(model, tx, config.seed).weights,
    out_shardings=shardings.weights,
  )()
  inputs = jax.device_put(
    _random_arrays(abstract_conditions(config)), context.batch_sharding
  )
  sampler = Sampler(context, encoder=_random_encoder(context))
  program, numbers = sampler.jitted, sampler.numbers()
  with context.use():
    yield lambda: program(weights, *inputs, numbers)


def measure_features(resolution: int, count: int) -> Report:
  """Times `count` batches of the FID network, with random weights.

  From uint8 images on the host to features on the host, on all devices of this
  process.
  """
  batch = default_batch_size(jax.local_devices())
  network = inception_network(Inception(rngs=nnx.Rngs(0)), '')
  rate = features_per_second(network, resolution, batch, count)
  device = jax.local_devices()[0].device_kind
  return dict(
    device=f'{jax.local_device_count()} x {device}',
    batch=batch,
    images_per_second=rate,
    minutes_for_50000=50_000 / rate / 60,
  )


def features_per_second(
  network: FeatureNetwork, size: int, batch: int, steps: int
) -> float:
  """Images a second of feature extraction, host transfers included.

  Args:
    network: compiled here on a first batch, which is not measured.
    size: side of the square images.
    batch: images per step; take the network's own batch size.
    steps: measured steps.
  """
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
  for _ in network.extract([images]):
    pass
  start = time.perf_counter()
  count = sum(
    len(features.pooled)
    for features in network.extract(itertools.repeat(images, steps))
  )
  return count / (time.perf_counter() - start)


def _timed(
  call: Callable[[], object], count: int, profile: str | None
) -> tuple[list[float], MatrixProduct | None]:
  """Seconds of calls and, without a known peak, products between them."""
  product = None if peak_flops(jax.devices()[0]) else MatrixProduct()
  between = product or (lambda: None)
  if profile is None:
    return time_calls(call, count, between), product
  jax.block_until_ready(call())
  with jax.profiler.trace(profile):
    return time_calls(call, count, between), product


def _report(
  timed: tuple[list[float], MatrixProduct | None], images: int, flops: float
) -> Report:
  seconds, product = timed
  devices, device = jax.device_count(), jax.devices()[0]
  median = statistics.median(seconds)
  report: Report = dict(
    device=f'{devices} x {device.device_kind}',
    images_per_second=images / median,
    seconds=median,
    seconds_min=min(seconds),
    seconds_max=max(seconds),
    tflops=flops / median / 1e12,
  )
  peak = peak_flops(device)
  if peak:
    report['mfu'] = flops / median / (peak * devices)
  if product is not None:
    report['matmul_tflops'] = product.rate / 1e12
    report['of_matmul'] = flops / median / product.rate
  memory = device.memory_stats() or {}
  if 'peak_bytes_in_use' in memory:
    report['peak_gigabytes'] = memory['peak_bytes_in_use'] / 1e9
  return report
