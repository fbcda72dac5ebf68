"""What DiT and PixelFlow are trained by: diffusion in steps, or in stages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax.flow.diffusion import STEPS, hybrid_loss, linear_diffusion
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.flow.stages import Stages, deal, stage_pair
from pixeldit_jax.model.lora import frozen_but_adapters
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.state import split
from pixeldit_jax.typing import Array, Float, Key


def is_diffusion(config: ConfigDict) -> bool:
  """Whether a run has a loss of its own: that of a DiT or a PixelFlow."""
  return config.model.prediction == 'noise' or config.model.size_embed


def draw_times(key: Key, batch: int, config: ConfigDict) -> Float[Array, 'B']:
  """Steps of DiT, 0 to 999; of PixelFlow thousandths of a stage."""
  steps = jax.random.randint(key, (batch,), 0, STEPS).astype(jnp.float32)
  return steps if config.model.prediction == 'noise' else steps / STEPS


def network_input(
  config: ConfigDict, inputs: Any
) -> tuple[Float[Array, 'B H W C'], Float[Array, 'B']]:
  """The noisy images of a step and what the network is given for their times.

  Of PixelFlow those of the last stage.
  """
  data, noise, t = inputs.data, inputs.noise, inputs.t
  if config.model.prediction == 'noise':
    return linear_diffusion().noisy(data, noise, t.astype(jnp.int32)), t
  if config.model.size_embed:
    stages = Stages(config.flow.stages)
    last = stages.count - 1
    return stage_pair(stages, last, data, noise, t)[0], stages.time_of(last, t)
  return interpolate(data, noise, t), t


def make_diffusion_loss(
  context: RunContext,
) -> Callable[..., tuple[Any, dict[str, Any]]]:
  """f(trained, inputs, ...) -> the loss, and what to log; means over a batch.

  DiT's is 'mse', of the noise, and 'vb', of the variance; PixelFlow's that of
  all stages, each with its share of the images, in one program without padding.
  What follows `inputs` are the frozen networks of other losses.
  """
  config = context.config
  graphdef = nnx.graphdef(abstract_model(context.model))
  stages = Stages(config.flow.stages)

  def of_steps(model, inputs):
    x, t = network_input(config, inputs)
    output = model(x, t, inputs.condition, inputs.dropout)
    steps = t.astype(jnp.int32)
    parts = hybrid_loss(
      linear_diffusion(), output, inputs.data, inputs.noise, steps
    )
    parts = jax.tree.map(jnp.mean, parts)
    return parts['mse'] + parts['vb'], parts

  def of_stages(model, inputs):
    height, width = inputs.data.shape[1:3]
    sizes, found = stages.sides(height, width), {}
    for stage, mine in enumerate(deal(inputs, stages)):
      h, w = sizes[stage]
      x, target = stage_pair(
        stages, stage, mine.data, mine.noise[:, :h, :w], mine.t
      )
      time = stages.time_of(stage, mine.t)
      output = model(x, time, mine.condition, mine.dropout)
      found[f'stage_{stage}'] = jnp.mean((output - target) ** 2)
    return sum(found.values()) / stages.count, found

  def loss_fn(trained, inputs, *_):
    weights, _ = split(trained)
    if config.lora.rank:
      weights = frozen_but_adapters(weights)
    model = nnx.merge(graphdef, weights)
    loss_of = of_stages if config.model.size_embed else of_steps
    total, parts = loss_of(model, inputs)
    return total, dict(loss=total) | parts

  return loss_fn
