"""One training step: a pure function of the state and a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax.config import model_config
from pixeldit_jax.data.transforms import normalize
from pixeldit_jax.flow.loss import drop_labels, flow_matching_loss
from pixeldit_jax.flow.time import sample_time
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.train.optim.optimizer import (
  make_optimizer,
  make_schedule,
  update_ema,
)
from pixeldit_jax.train.repa import (
  Target,
  check_target,
  make_alignment,
  repa_weight,
)
from pixeldit_jax.train.state import TrainState, split
from pixeldit_jax.typing import Condition, Key, PyTree, TextCondition

Metrics = dict[str, jax.Array]


def draw_examples(key: Key, batch: PyTree, config: ConfigDict) -> PyTree:
  """What a batch is trained on: images, noise, times, labels or texts.

  All randomness of a step is here, drawn for the global batch at once, so it
  depends on neither devices, processes nor accumulation.

  Args:
    key: of this step.
    batch: 'image' uint8 [B, H, W, C], and 'label' int32 [B] or 'text' [B, T, C]
      and perhaps 'text_mask' [B, T]; 'features' [B, S, D] where a teacher's are
      stored.
    config: of the run.
  """
  keys = jax.random.split(key, 4)
  data = normalize(batch['image'])
  B = data.shape[0]
  if config.data.flip:
    flipped = jax.random.bernoulli(keys[3], 0.5, (B, 1, 1, 1))
    data = jnp.where(flipped, data[:, :, ::-1], data)
  stored = {k: batch[k] for k in ('features',) if k in batch}
  return stored | dict(
    data=data,
    noise=jax.random.normal(keys[0], data.shape),
    t=sample_time(keys[1], B, config.flow.shift, config.flow.discrete_steps),
    y=_condition(keys[2], batch, config),
  )


def _condition(key: Key, batch: PyTree, config: ConfigDict) -> Condition:
  """The condition of the network; texts come with some of them dropped."""
  if not config.model.text_width:
    rate, null = config.flow.label_dropout, config.model.num_classes
    return drop_labels(key, batch['label'], rate, null)
  mask = batch['text_mask'] if config.model.text_mask else None
  return TextCondition(batch['text'], mask)


def make_gradients(
  config: ConfigDict, target: Target | None = None
) -> Callable[..., tuple[Metrics, PyTree]]:
  """f(trained, examples, teacher=None, step=0) -> losses and the gradient.

  The losses are 'loss', that of flow matching, and with a target 'repa', that
  of alignment before its weight. The gradient is of their weighted sum, by
  parts if asked.
  """
  graphdef = nnx.graphdef(abstract_model(model_config(config)))
  alignment = make_alignment(config, target) if target else None
  parts = config.optimizer.accumulate

  def loss_fn(trained, examples, teacher, step):
    weights, projector = split(trained)
    model = nnx.merge(graphdef, weights)
    features = {}

    def velocity_fn(x, t):
      if alignment is None:
        return model(x, t, examples['y'])
      v, features['patch_blocks'] = model.with_patch_feature(
        x, t, examples['y'], config.repa.block
      )
      return v

    loss_B = flow_matching_loss(
      velocity_fn, examples['data'], examples['noise'], examples['t']
    )
    loss = jnp.mean(loss_B)
    if alignment is None:
      return loss, dict(loss=loss)
    weight = repa_weight(config, step)
    tokens = features['patch_blocks']
    repa = alignment(projector, tokens, examples, teacher, weight)
    return loss + weight * repa, dict(loss=loss, repa=repa)

  gradient_fn = jax.grad(loss_fn, has_aux=True)

  def gradients(trained, examples, teacher=None, step=0):
    if parts == 1:
      gradient, losses = gradient_fn(trained, examples, teacher, step)
      return losses, gradient
    # Every parts-th example: each device keeps its share of every part.
    examples = jax.tree.map(
      lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), examples
    )

    def add(total, part):
      new = gradient_fn(trained, part, teacher, step)
      return jax.tree.map(lambda a, b: a + b / parts, total, new), None

    first = jax.tree.map(lambda a: a[0], examples)
    zero = jax.tree.map(
      lambda a: jnp.zeros(a.shape, a.dtype),
      jax.eval_shape(gradient_fn, trained, first, teacher, step),
    )
    (gradient, losses), _ = jax.lax.scan(add, zero, examples)
    return losses, gradient

  return gradients


def make_update(
  config: ConfigDict,
) -> Callable[[TrainState, Metrics, PyTree], tuple[TrainState, Metrics]]:
  """f(state, losses, gradients) -> the next state and what to log.

  A loss or gradient that is not finite changes nothing but the counters.
  """
  tx = make_optimizer(config)
  schedule = make_schedule(config)

  def update(state, losses, gradients):
    norm = optax.global_norm(gradients)
    finite = jnp.isfinite(norm)
    for loss in losses.values():
      finite &= jnp.isfinite(loss)

    def if_finite(new, old):
      return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    # optax raises a float to an integer power, which strict promotion refuses.
    with jax.numpy_dtype_promotion('standard'):
      updates, opt_state = tx.update(
        gradients, state.opt_state, state.trained, finite=finite
      )
    trained = optax.apply_updates(state.trained, updates)
    # Chosen before the average is made of them: the old ones are then free.
    weights, projector = split(if_finite(trained, state.trained))
    ema = update_ema(
      state.ema, weights, state.step, config.ema.decay, config.ema.warmup
    )
    ema = if_finite(ema, state.ema)
    bad_steps = jnp.where(finite, 0, state.bad_steps + 1)
    metrics = losses | dict(
      gradient_norm=norm,
      learning_rate=jnp.asarray(schedule(state.step), jnp.float32),
      bad_steps=bad_steps,
    )
    state = state.replace(
      step=state.step + 1,
      bad_steps=bad_steps,
      weights=weights,
      ema=ema,
      opt_state=opt_state,
      projector=projector,
    )
    return state, metrics

  return update


def make_train_step(
  config: ConfigDict, target: Target | None = None
) -> Callable[..., tuple[TrainState, Metrics]]:
  """f(state, batch, teacher=None) -> the next state and what to log.

  Args:
    config: of the run.
    target: what REPA aligns with; the step then takes its weights, if it has
      any, as `teacher`.
  """
  target = check_target(config, target)
  gradients = make_gradients(config, target)
  update = make_update(config)

  def train_step(state, batch, teacher=None):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    examples = draw_examples(key, batch, config)
    return update(
      state, *gradients(state.trained, examples, teacher, state.step)
    )

  return train_step
