"""AdamW, CAME or Muon with schedule and clipping; the EMA of the weights."""

import chex
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from pixeldit_jax.flow.repa import PROJECTOR
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.lora import adapters_of, in_place_of_adapters
from pixeldit_jax.model.pixeldit import abstract_model, matrix_axes_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.optim.adam import clip_by_global_norm, scale_by_adam
from pixeldit_jax.train.optim.came import (
  MatrixAxes,
  SeveralMatrices,
  scale_by_came,
)
from pixeldit_jax.train.optim.muon import scale_by_muon
from pixeldit_jax.typing import Array, Int, PyTree

# Parts of the network whose weights are of classes or texts.
_OF_CONDITIONS = {'class_embed', 'text_embed', 'text'}


def make_schedule(config: ConfigDict) -> optax.Schedule:
  """Linear warmup, then constant, cosine or linear down to the last step.

  A constant rate may drop once, from `optimizer.drop_step` on.
  """
  o = config.optimizer
  rest = config.steps - o.warmup_steps
  if o.schedule == 'constant':
    main = optax.constant_schedule(o.learning_rate)
  elif o.schedule == 'cosine':
    alpha = o.final_learning_rate / (o.learning_rate or 1.0)
    main = optax.cosine_decay_schedule(o.learning_rate, rest, alpha)
  else:
    main = optax.linear_schedule(o.learning_rate, o.final_learning_rate, rest)

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    # From 1/n, not 0, at which the first step would change nothing.
    warm = jnp.minimum(1.0, (step + 1) / max(1, o.warmup_steps))
    rate = warm * main(jnp.maximum(0.0, step - o.warmup_steps))
    if o.drop_step:
      rate = jnp.where(step < o.drop_step, rate, o.dropped_learning_rate)
    return rate

  return schedule


def make_optimizer(
  context: RunContext,
) -> optax.GradientTransformationExtraArgs:
  """Clipping by global norm, then AdamW, CAME or Muon.

  `update(..., finite=False)` changes no state, whatever the gradients are.
  """
  o = context.config.optimizer
  if o.name == 'came':
    betas = dict(beta1=o.beta1, beta2=o.beta2, beta3=o.beta3)
    axes = _matrix_axes(context.model)
    several = (_joined_gates(axes),) if o.split_gates else ()
    rule = _if_finite(scale_by_came(axes, *several, **betas))
  elif o.name == 'muon':
    muon = scale_by_muon(
      _matrix_axes(context.model), beta1=o.beta1, beta2=o.beta2, eps=o.eps
    )
    rule = _if_finite(muon)
  else:
    rule = scale_by_adam(o.beta1, o.beta2, o.eps, o.moments)
  slower = () if o.rest_rate == 1 else (_scale_rest(o.rest_rate),)
  tx = optax.chain(
    clip_by_global_norm(o.clip_norm),
    # A chain of its own, as optax.adamw is: checkpoints keep their names.
    optax.chain(
      rule,
      optax.add_decayed_weights(o.weight_decay, _decayed),
      _if_finite(optax.scale_by_learning_rate(make_schedule(context.config))),
      *slower,
    ),
  )
  return _of_adapters(tx) if context.model.lora_rank else tx


def _of_adapters(
  tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
  """The same for adapters and REPA's projector; the rest has no moments."""
  also = (PROJECTOR,)

  def init(weights):
    return tx.init(adapters_of(weights, also))

  def update(gradients, state, weights=None, **more):
    of_adapters = (adapters_of(tree, also) for tree in (gradients, weights))
    gradient, weight = of_adapters
    directions, state = tx.update(gradient, state, weight, **more)
    return in_place_of_adapters(directions, gradients), state

  return optax.GradientTransformationExtraArgs(init, update)


def _scale_rest(factor: float) -> optax.GradientTransformation:
  """A factor for all but what the network knows classes or texts by."""

  def update(directions, weights):
    del weights
    return jax.tree_util.tree_map_with_path(
      lambda path, d: (
        d if _OF_CONDITIONS & {k.key for k in path} else factor * d
      ),
      directions,
    )

  return optax.stateless(update)


def _if_finite(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """The same, but its state stays as it is if `finite` is False."""

  def update(gradients, state, weights=None, *, finite=True, **more):
    del more
    directions, new = tx.update(gradients, state, weights)
    keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
    return directions, jax.tree.map(keep, new, state)

  return optax.GradientTransformationExtraArgs(tx.init, update)


def _matrix_axes(model: ModelConfig) -> MatrixAxes:
  """The axes of the matrices of each block, for CAME and Muon."""
  network = matrix_axes_of(abstract_model(model))
  of_path = dict(
    jax.tree_util.tree_leaves_with_path(
      network, is_leaf=lambda axes: isinstance(axes, tuple)
    )
  )

  def matrix_axes(path, weight):
    # REPA's projector is not part of the network; its kernels are matrices.
    return of_path.get(path, (0, int(weight.ndim == 2)))

  return matrix_axes


def _joined_gates(matrix_axes: MatrixAxes) -> SeveralMatrices:
  """Of the arrays [..., inputs, 2, outputs] that hold w1 and w3 of SwiGLU."""

  def joined(path, weight):
    names = [key.key for key in path[-2:]]
    outputs = weight.ndim - sum(matrix_axes(path, weight))
    return names == ['up', 'kernel'] and outputs == 2

  return joined


def _decayed(weights: PyTree) -> PyTree:
  """True for kernels; biases, norms and the class table do not decay."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == 'kernel', weights
  )


def update_ema(
  ema: PyTree,
  weights: PyTree,
  step: Int[Array, ''],
  decay: float,
  warmup: bool,
) -> PyTree:
  """decay * ema + (1 - decay) * weights, after the optimizer's update.

  Args:
    ema, weights: trees of the same shapes.
    step: updates done before this one.
    decay: of the average once it is warm.
    warmup: limits the decay to (1 + step) / (10 + step), so that a young
      average is not dominated by the first random weights.
  """
  chex.assert_trees_all_equal_shapes(ema, weights)  # else they broadcast
  d = jnp.float32(decay)
  if warmup:
    n = step.astype(jnp.float32)
    d = jnp.minimum(d, (1 + n) / (10 + n))
  # Not optax.incremental_update, (1 - d) * w + d * e, which rounds: this form
  # does not change an average that equals its weights.
  return jax.tree.map(lambda e, w: e + (1 - d) * (w - e), ema, weights)
