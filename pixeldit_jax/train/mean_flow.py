"""Training towards average velocities: `config.objective=mean_flow`."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.encoders.frozen import JudgeConfig
from pixeldit_jax.flow.mean_flow import (
  MeanFlowDraws,
  draw_mean_flow,
  mean_flow_loss,
)
from pixeldit_jax.images.parts import random_part
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.mean_flow import average_of
from pixeldit_jax.train.objective import distance
from pixeldit_jax.train.state import split
from pixeldit_jax.typing import Key

log = logging.getLogger(__name__)


def draws_of(key: Key, batch: int, config: Any) -> MeanFlowDraws:
  """What a step draws for a batch, by the keys of a run."""
  flow, options = config.flow, config.mean_flow
  return draw_mean_flow(
    key,
    batch,
    mean=flow.time_mean,
    std=flow.time_std,
    beta=options.beta,
    dropout=flow.label_dropout,
    uniform=options.uniform,
  )


def make_mean_flow_loss(
  context: RunContext, judges: Mapping[str, JudgeConfig]
) -> Callable[..., tuple[Any, Any]]:
  """f(trained, inputs, teacher, step, encoder, weights of judges) -> the loss.

  And what to log; both are means over a batch.

  'loss' is the mean square of the error, 'weighted', of which the gradient is,
  stays near one number; those of judges, networks of perceptual losses, have
  their names. `inputs` have labels, none dropped, and `draws`.
  The forward derivative takes plain attention, whatever the network has: fused
  kernels have none.
  """
  model, null = context.model, context.model.num_classes
  plain = dataclasses.replace(model, attention='plain')
  if model.attention != 'plain':
    log.info(
      'objective=mean_flow: plain attention where the forward derivative is '
      'taken, model.attention=%s elsewhere.',
      model.attention,
    )
  options = context.config.perceptual

  def differ(judge, weights, part, images, data):
    if side := options.side:
      images, data = (random_part(a, part, side) for a in (images, data))
    return distance(judge, weights, images, data, model)

  graphs = [nnx.graphdef(abstract_model(m)) for m in (model, plain)]

  def loss_fn(trained, inputs, teacher, step, encoder, judging):
    del teacher, step, encoder
    weights, _ = split(trained)
    average, derivative = (
      average_of(nnx.merge(graph, weights)) for graph in graphs
    )
    total, parts = mean_flow_loss(
      average,
      inputs.data,
      inputs.noise,
      inputs.draws,
      inputs.condition,
      null,
      perceptual={
        name: (
          options[f'{name}_weight'],
          functools.partial(differ, judge, judging[name], inputs.draws.part),
        )
        for name, judge in judges.items()
      },
      noisiest=options.start,
      derivative=derivative,
    )
    total, parts = jax.tree.map(jnp.mean, (total, parts))
    return total, dict(weighted=total) | parts

  return loss_fn
