"""The guided velocity of a run's network: what sampling and editing follow."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.flow.prediction import as_velocity
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.guidance import guide
from pixeldit_jax.typing import (
  Condition,
  GroundedCondition,
  PyTree,
  TextCondition,
  VelocityFn,
)


def guided_velocity(
  context: RunContext,
  weights: PyTree,
  condition: Condition,
  unconditional: TextCondition | None,
  guidance: float | jax.Array,
) -> Callable[..., jax.Array]:
  """The velocity towards a condition, by `config.sampler`, while tracing.

  Args:
    context: of the run; its interval of guidance is taken.
    weights: of the network.
    condition: what the images are to show.
    unconditional: what guidance leads away from, of texts; a network of classes
      has its null class.
    guidance: the scale, as `samplers.guidance.guide` takes it.

  Returns:
    A function of x, t and the time that decides about guidance, see `guide`.
  """
  options, model = context.config.sampler, context.config.model
  network = nnx.merge(nnx.graphdef(abstract_model(context.model)), weights)
  away: Condition | None = unconditional
  if not isinstance(condition, TextCondition | GroundedCondition):
    away = jnp.full_like(condition, model.num_classes)

  def velocity_given(y) -> VelocityFn:
    return lambda x, t: as_velocity(model.prediction, network(x, t, y), x, t)

  return guide(
    velocity_given(condition),
    velocity_given(away),
    guidance,
    options.interval,
    options.interval_bounds,
  )
