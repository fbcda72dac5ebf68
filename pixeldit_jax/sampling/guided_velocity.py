"""The guided velocity of a run's network: what sampling and editing follow."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax.encoders.frozen import Frozen, with_weights
from pixeldit_jax.encoders.grounding import ground
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.prediction import as_velocity
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.model.self_attention import weights_seen
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.guidance import guide
from pixeldit_jax.samplers.mean_flow import guided_average
from pixeldit_jax.samplers.shifted_patches import on_shifted_patches
from pixeldit_jax.samplers.stronger_guidance import get_rule
from pixeldit_jax.sampling.weak_network import WeakNetwork
from pixeldit_jax.typing import (
  Array,
  Condition,
  Float,
  PyTree,
  TextCondition,
)

Output = Callable[[jax.Array, jax.Array], jax.Array]  # of x, t


def guided_velocity(
  context: RunContext,
  weights: PyTree,
  condition: Condition,
  unconditional: TextCondition | None,
  guidance: float | jax.Array,
  encoder: Frozen | None = None,
  weak: WeakNetwork | None = None,
) -> Callable[..., jax.Array]:
  """The velocity towards a condition, by `config.sampler`, while tracing.

  Args:
    context: of the run; its interval of guidance is taken.
    weights: of the network.
    condition: what the images are to show.
    unconditional: what guidance leads away from, of texts; a network of classes
      has its null class.
    guidance: the scale, as `samplers.guidance.guide` takes it.
    encoder: of a grounded network, by default `context.encoder`, whose weights
      are then constants of the program. What guidance leads away from is never
      grounded.
    weak: what guidance leads away from instead, given the same condition.

  Returns:
    A function of x, t and the time that decides about guidance, see `guide`.
    Of a network of average velocities that is given the scale, of x, t and the
    end of a step, see `guided_average`. With `sampler.shift_patches` both are
    of moved patches.

  Raises:
    UserError: a network that has no such velocity.
  """
  options, model = context.config.sampler, context.config.model
  _check_prediction(model)
  if model.mean_flow == 'tokens' or options.solver == 'jump':
    labels: Any = condition  # of a network of classes
    network = network_of(context, weights)
    average = guided_average(network, labels, guidance, tuple(options.interval))
    return _on_patches(context.config, average)

  if options.reuse_patch_tokens > 1:
    raise UserError(
      f'sampler.reuse_patch_tokens={options.reuse_patch_tokens}: only samples '
      'share patch tokens between steps; set it to 1.'
    )
  if options.weak and not weak:
    raise UserError(
      f'sampler.weak={options.weak!r}: only samples are guided by a weaker '
      "network; set it to ''."
    )
  given = branches(
    context, weights, condition, unconditional, encoder, weak=weak
  )
  return _on_patches(context.config, _guide(context.config, given, guidance))


def _on_patches(
  config: ConfigDict, velocity: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
  """The same on patches that are moved, if the sampler moves them."""
  if not config.sampler.shift_patches:
    return velocity
  return on_shifted_patches(velocity, config.model.patch_size)


def velocity_sharing_tokens(
  context: RunContext,
  weights: PyTree,
  condition: Condition,
  unconditional: TextCondition | None,
  guidance: float | jax.Array,
  encoder: Frozen | None = None,
) -> Callable[[jax.Array, jax.Array], Callable[..., jax.Array]]:
  """f(x, t) -> the guided velocity with the patch tokens of x and t.

  The arguments are those of `guided_velocity`.
  """
  network = network_of(context, weights)
  tokens_of = branches(
    *(context, weights, condition, unconditional, encoder),
    output=network.patch_tokens,
  )

  def output_with(tokens):
    return lambda x, t: network.from_patch_tokens(x, t, tokens)

  def velocity_at(x, t):
    outputs = [output_with(of_branch(x, t)) for of_branch in tokens_of]
    return _guide(context.config, outputs, guidance)

  return velocity_at


def _guide(
  config: ConfigDict, outputs: Sequence[Output], guidance: float | jax.Array
) -> Callable[..., jax.Array]:
  """The guided velocity of what the network gives for the two branches."""
  options, model = config.sampler, config.model

  def velocity_of(output):
    return lambda x, t: as_velocity(model.prediction, output(x, t), x, t)

  given, away = outputs
  conditioned = model.num_classes or model.text_width
  return guide(
    velocity_of(given),
    velocity_of(away),
    guidance if conditioned or options.weak else 1.0,
    options.interval,
    options.interval_bounds,
    get_rule(options.rule),
  )


def branches(
  context: RunContext,
  weights: PyTree,
  condition: Condition,
  unconditional: TextCondition | None,
  encoder: Frozen | None = None,
  output: Callable[..., jax.Array] | None = None,
  weak: WeakNetwork | None = None,
) -> tuple[Output, Output]:
  """The network's output given the condition, and given what to lead away from.

  The arguments are those of `guided_velocity`, and `output` is another f(x, t,
  condition) than the network.
  """
  model = context.config.model
  network = output or network_of(context, weights)
  labels: Any = condition  # of a network of classes
  away: Condition | None = unconditional
  if not isinstance(condition, TextCondition):
    away = jnp.full_like(labels, model.num_classes)
  encoder = encoder or context.encoder

  def conditional(x, t):
    if encoder is None:
      return network(x, t, condition)
    config, arrays = encoder
    seen_by = with_weights(config, jax.tree.map(jnp.asarray, arrays))
    grounded = ground(seen_by, x, labels, model.patch_size)
    return network(x, t, grounded)

  if weak:
    weaker = nnx.merge(nnx.graphdef(abstract_model(weak.model)), weak.weights)
    return conditional, lambda x, t: weaker(x, t, condition)
  return conditional, lambda x, t: network(x, t, away)


def attention_maps(
  context: RunContext,
  weights: PyTree,
  condition: Condition,
  x: Float[Array, 'B H W C'],
  t: Float[Array, '#B'] | Float[Array, ''],
) -> list[jax.Array]:
  """Where each block looks, given the condition, while tracing.

  Args:
    context, weights, condition: see `guided_velocity`.
    x, t: noisy images and their times.

  Returns:
    The weights of attention [B, N, L, S] of each block, those of the patch path
    before those of the pixel path.
  """
  unrolled = dataclasses.replace(
    context.model, scan=False, patch_remat='none', pixel_remat='none'
  )
  context = dataclasses.replace(context, model=unrolled)
  given, _ = branches(context, weights, condition, None)
  with weights_seen() as seen:
    given(x, t)
  return seen


def network_of(context: RunContext, weights: PyTree) -> Any:
  """The network of a run with these weights, while tracing."""
  return nnx.merge(nnx.graphdef(abstract_model(context.model)), weights)


def _check_prediction(model: ConfigDict) -> None:
  """Raises UserError for a network without a velocity from noise to image."""
  if model.prediction == 'noise' or model.size_embed:
    raise UserError(
      f'model.prediction={model.prediction!r} with model.size_embed='
      f'{model.size_embed}: DiT and PixelFlow have no velocity from noise to '
      'image; they draw (pixeldit sample), but do not edit.'
    )
