"""One training step: a pure function of the state and a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax.data.transforms import normalize
from pixeldit_jax.flow.loss import drop_labels, flow_matching_loss
from pixeldit_jax.flow.time import sample_time
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.train.config import model_config
from pixeldit_jax.train.optimizer import (
  make_optimizer,
  make_schedule,
  update_ema,
)
from pixeldit_jax.train.state import TrainState
from pixeldit_jax.typing import Condition, Key, PyTree

Metrics = dict[str, jax.Array]


def draw_examples(key: Key, batch: PyTree, config: ConfigDict) -> PyTree:
  """What a batch is trained on: images, noise, times, labels or texts.

  All randomness of a step is here, drawn for the global batch at once, so it
  depends on neither devices, processes nor accumulation.

  Args:
    key: of this step.
    batch: 'image' uint8 [B, H, W, C], and 'label' int32 [B] or 'text' [B, T, C]
      and perhaps 'text_mask' [B, T].
    config: of the run.
  """
  keys = jax.random.split(key, 4)
  data = normalize(batch['image'])
  B = data.shape[0]
  if config.data.flip:
    flipped = jax.random.bernoulli(keys[3], 0.5, (B, 1, 1, 1))
    data = jnp.where(flipped, data[:, :, ::-1], data)
  return dict(
    data=data,
    noise=jax.random.normal(keys[0], data.shape),
    t=sample_time(keys[1], B, config.flow.shift, config.flow.discrete_steps),
    y=_condition(keys[2], batch, config),
  )


def _condition(key: Key, batch: PyTree, config: ConfigDict) -> Condition:
  """What the network is told; texts come with some of them dropped."""
  if not config.model.text_width:
    rate, null = config.flow.label_dropout, config.model.num_classes
    return drop_labels(key, batch['label'], rate, null)
  y = dict(text=batch['text'])
  return y | dict(mask=batch['text_mask']) if config.model.text_mask else y


def make_gradients(
  config: ConfigDict,
) -> Callable[[PyTree, PyTree], tuple[jax.Array, PyTree]]:
  """f(weights, examples) -> mean loss and its gradient, by parts if asked."""
  graphdef = nnx.graphdef(abstract_model(model_config(config)))
  parts = config.optimizer.accumulate

  def loss_fn(weights, examples):
    model = nnx.merge(graphdef, weights)
    loss_B = flow_matching_loss(
      lambda x, t: model(x, t, examples['y']),
      examples['data'],
      examples['noise'],
      examples['t'],
    )
    return jnp.mean(loss_B)

  if parts == 1:
    return jax.value_and_grad(loss_fn)

  def gradients(weights, examples):
    # Every parts-th example: each device keeps its share of every part.
    split = jax.tree.map(
      lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), examples
    )

    def add(total, part):
      new = jax.value_and_grad(loss_fn)(weights, part)
      return jax.tree.map(lambda a, b: a + b / parts, total, new), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, weights))
    return jax.lax.scan(add, zero, split)[0]

  return gradients


def make_update(
  config: ConfigDict,
) -> Callable[[TrainState, jax.Array, PyTree], tuple[TrainState, Metrics]]:
  """f(state, loss, gradients) -> the next state and what to log.

  A loss or gradient that is not finite changes nothing but the counters.
  """
  tx = make_optimizer(config)
  schedule = make_schedule(config)

  def update(state, loss, gradients):
    norm = optax.global_norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    # optax raises a float to an integer power, which strict promotion refuses.
    with jax.numpy_dtype_promotion('standard'):
      updates, opt_state = tx.update(gradients, state.opt_state, state.weights)
    weights = optax.apply_updates(state.weights, updates)
    ema = update_ema(
      state.ema, weights, state.step, config.ema.decay, config.ema.warmup
    )
    weights, ema, opt_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (weights, ema, opt_state),
      (state.weights, state.ema, state.opt_state),
    )
    bad_steps = jnp.where(finite, 0, state.bad_steps + 1)
    metrics = dict(
      loss=loss,
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
    )
    return state, metrics

  return update


def make_train_step(
  config: ConfigDict,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
  """f(state, batch) -> the next state and what to log."""
  gradients = make_gradients(config)
  update = make_update(config)

  def train_step(state, batch):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    examples = draw_examples(key, batch, config)
    return update(state, *gradients(state.weights, examples))

  return train_step
