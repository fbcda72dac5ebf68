"""The loss of the EMA on images that are not trained on."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax import sharding
from pixeldit_jax.data.caption_sampler import MASK, TEXT, CaptionSampler
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.source import Source
from pixeldit_jax.data.transforms import normalize
from pixeldit_jax.flow.loss import drop_labels
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.flow.prediction import as_velocity, target_velocity
from pixeldit_jax.metrics.table import HELD_OUT_LOSS
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.evaluator import never_stop
from pixeldit_jax.train.inputs import examples_of, open_held_out
from pixeldit_jax.typing import Array, Condition, Float, PyTree, TextCondition

_TIMES = 8  # of each image, at even distances
_PARTS = 4  # of the way from noise to data, each with a loss


class HeldOutEvaluator:
  """An `Evaluator` of `config.data.held_out` images.

  The mean squared error of the velocity, with noise and times that are always
  the same, also for each quarter of the times ('held_out_loss_0.00-0.25', near
  the noise). It rises where a network learns its pictures by heart.

  Attributes:
    every: steps between two losses.
  """

  def __init__(self, context: RunContext):
    self.every = context.config.eval.held_out_every
    self._context = context
    self._losses = jax.jit(
      self._losses_at_times, out_shardings=sharding.replicated(context.mesh)
    )

  def __call__(
    self,
    step: int,
    ema_params: PyTree,
    check_stop: Callable[[], None] = never_stop,
  ) -> Iterator[tuple[str, float]]:
    """Yields the loss, and that of each part of the times."""
    del step
    losses = []
    for number, batch in enumerate(self._batches()):
      check_stop()
      with self._context.use():
        losses.append(self._losses(ema_params, batch, jnp.uint32(number)))
    of_times = np.mean(jax.device_get(losses), 0)
    yield HELD_OUT_LOSS, float(of_times.mean())
    parts = of_times.reshape(_PARTS, -1).mean(1)
    for part, loss in enumerate(parts):
      low, high = part / _PARTS, (part + 1) / _PARTS
      yield f'{HELD_OUT_LOSS}_{low:.2f}-{high:.2f}', float(loss)

  @functools.cached_property
  def _source(self) -> Source:
    return open_held_out(self._context.config)

  def _batches(self) -> Iterator[PyTree]:
    """All images, up to a batch; of fewer than a batch some come again."""
    context, config = self._context, self._context.config
    source, finish = examples_of(self._source)
    pick = None
    if config.model.text_width:
      pick = CaptionSampler(source, dropout=0.0)
    size = config.data.batch_size
    rows = sharding.local_rows(context.batch_sharding, size)
    batches = make_batches(
      source,
      dataclasses.replace(LoaderOptions.from_config(config), crop=1.0),
      rows=[int(row) for row in rows],
      pick=pick,
      finish=finish,
    )
    names = (TEXT, MASK) if config.model.text_width else ('label',)
    try:
      for _ in range(max(1, len(source) // size)):
        batch = next(batches)
        yield sharding.put_batch(
          {name: batch[name] for name in ('image', *names)},
          context.batch_sharding,
        )
    finally:
      batches.close()

  def _losses_at_times(
    self, weights: PyTree, batch: PyTree, number: Array
  ) -> Float[Array, 'T']:
    config, model = self._context.config, self._context.model
    network: Callable[..., Any] = nnx.merge(
      nnx.graphdef(abstract_model(model)), weights
    )
    data = normalize(batch['image'])
    key = jax.random.fold_in(jax.random.key(config.seed), number)

    def loss_at(time):
      noise = jax.random.normal(jax.random.fold_in(key, time), data.shape)
      t = jnp.full(len(data), (time.astype(jnp.float32) + 0.5) / _TIMES)
      noise = config.flow.noise_scale * noise
      x = interpolate(data, noise, t)
      output = network(x, t, self._condition(key, batch))
      velocity = as_velocity(model.prediction, output, x, t)
      target = target_velocity(model.prediction, data, noise, x, t)
      return jnp.mean((velocity - target) ** 2)

    return jax.lax.map(loss_at, jnp.arange(_TIMES))

  def _condition(self, key: jax.Array, batch: PyTree) -> Condition:
    model = self._context.model
    if model.text_width:
      return TextCondition(
        batch[TEXT], batch[MASK] if model.text_mask else None
      )
    return drop_labels(key, batch['label'], 0.0, model.num_classes)
