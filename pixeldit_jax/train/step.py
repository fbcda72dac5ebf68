"""One training step: a pure function of the state and a batch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax.data.transforms import normalize
from pixeldit_jax.encoders.frozen import (
  FrozenConfig,
  JudgeConfig,
  with_weights,
)
from pixeldit_jax.encoders.grounding import ground
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.condition_dropout import drop_conditions
from pixeldit_jax.flow.loss import drop_labels
from pixeldit_jax.flow.mean_flow import MeanFlowDraws
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.flow.time import sample_time
from pixeldit_jax.model.lora import frozen_but_adapters
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.diffusion import (
  draw_times,
  is_diffusion,
  make_diffusion_loss,
)
from pixeldit_jax.train.latents import draw_latents
from pixeldit_jax.train.mean_flow import draws_of, make_mean_flow_loss
from pixeldit_jax.train.objective import make_losses
from pixeldit_jax.train.optim.optimizer import make_schedule, update_ema
from pixeldit_jax.train.repa import (
  AlignmentTarget,
  make_alignment,
  repa_weight,
)
from pixeldit_jax.train.state import TrainState, split
from pixeldit_jax.typing import (
  Array,
  Bool,
  Condition,
  Float,
  Int,
  Key,
  PyTree,
  TextCondition,
)

Metrics = dict[str, Float[Array, ''] | Int[Array, '']]


class TrainingInputs(NamedTuple):
  """What a batch is trained on.

  Attributes:
    data: images in [-1, 1].
    noise: normal, of `flow.noise_scale`.
    t: times in [0, 1]; of DiT steps, 0 to 999.
    condition: labels or texts, some of them dropped.
    teacher_features: of a teacher, where they are stored with the data.
    dropout: keys of the network's dropout, where it has any.
    ungrounded: of a grounded network, images that get no features.
    draws: with `objective=mean_flow`, what else is drawn.
  """

  data: Float[Array, 'B H W C']
  noise: Float[Array, 'B H W C']
  t: Float[Array, 'B']
  condition: Condition
  teacher_features: Float[Array, 'B S G'] | None = None
  dropout: Key | None = None
  ungrounded: Bool[Array, 'B'] | None = None
  draws: MeanFlowDraws | None = None


def sample_training_inputs(
  key: Key, batch: PyTree, config: ConfigDict
) -> TrainingInputs:
  """Draws noise, times and what is dropped or mirrored for a batch.

  All randomness of a step is here, drawn for the global batch at once, so it
  depends on neither devices, processes nor accumulation.

  Args:
    key: of this step.
    batch: 'image' uint8 [B, H, W, C], or the moments of latents, and 'label'
      int32 [B] or 'text' [B, T, C] and perhaps 'text_mask' [B, T]; 'features'
      [B, S, G] where a teacher's are stored.
    config: all values.
  """
  # fold_in(key, i) of i < 4 would be one of these:
  # findings/jax_split_and_fold_in_give_the_same_keys.sh
  keys = jax.random.split(key, 4)
  B = batch['image'].shape[0]
  flipped = jnp.zeros((B, 1, 1, 1), bool)
  if config.data.flip:
    flipped = jax.random.bernoulli(keys[3], 0.5, (B, 1, 1, 1))
  if config.latents.autoencoder:
    of_latents = jax.random.fold_in(key, 5)  # 4 is that of dropout
    scale = config.latents.scale
    data = draw_latents(of_latents, batch['image'], flipped, scale)
  else:
    data = normalize(batch['image'])
    if config.data.flip:
      data = jnp.where(flipped, data[:, :, ::-1], data)
  if config.objective == 'mean_flow':
    draws = draws_of(keys[1], B, config)
    noise = config.flow.noise_scale * jax.random.normal(keys[0], data.shape)
    return TrainingInputs(data, noise, draws.s, batch['label'], draws=draws)
  flow = config.flow
  condition, ungrounded = _condition(keys[2], batch, config)
  noise = jax.random.normal(keys[0], data.shape)
  return TrainingInputs(
    data=data,
    noise=noise if flow.noise_scale == 1 else flow.noise_scale * noise,
    t=draw_times(keys[1], B, config)
    if is_diffusion(config)
    else sample_time(
      keys[1], B, flow.shift, flow.discrete_steps, flow.time_mean, flow.time_std
    ),
    condition=condition,
    teacher_features=batch.get('features'),
    dropout=_dropout_keys(key, B) if config.model.dropout else None,
    ungrounded=ungrounded,
  )


def _dropout_keys(key: Key, batch: int) -> Key:
  """One for each example; `key` is the one that all else is split from."""
  return jax.random.split(jax.random.fold_in(key, 4), batch)


def _condition(
  key: Key, batch: PyTree, config: ConfigDict
) -> tuple[Condition, Bool[Array, 'B'] | None]:
  """Labels or texts, and images that get no features of an encoder.

  Texts come with some of them dropped.
  """
  model, grounding = config.model, config.grounding
  if model.text_width:
    mask = batch['text_mask'] if model.text_mask else None
    return TextCondition(batch['text'], mask), None
  labels, rate = batch['label'], config.flow.label_dropout
  if not model.grounding_width:
    return drop_labels(key, labels, rate, model.num_classes), None
  return drop_conditions(
    jax.random.uniform(key, (3, labels.shape[0])),
    labels,
    model.num_classes,
    label_rate=rate,
    feature_rate=grounding.dropout,
    joint_rate=grounding.joint_dropout,
    coupled=grounding.coupled,
  )


def make_condition(
  context: RunContext, encoder: FrozenConfig | None
) -> Callable[[Float[Array, 'B H W C'], TrainingInputs, PyTree], Condition]:
  """f(x, inputs, encoder weights) -> the condition of the network.

  A grounded network gets what the encoder sees in x, the same noisy images.
  """

  def condition_of(x, inputs, weights):
    if encoder is None:
      return inputs.condition
    return ground(
      with_weights(encoder, weights),
      x,
      inputs.condition,
      context.model.patch_size,
      inputs.ungrounded,
    )

  return condition_of


def make_gradients(
  context: RunContext,
  target: AlignmentTarget | None = None,
  encoder: FrozenConfig | None = None,
  judges: Mapping[str, JudgeConfig] | None = None,
) -> Callable[..., tuple[Metrics, PyTree]]:
  """f(trained, inputs, teacher, step, encoder, judges) -> losses, gradient.

  The last four arguments have defaults: None, and step 0. `teacher`, `encoder`
  and `judges` are the weights of what is named so here, or the target.

  The losses are those of `make_losses` and with a target 'repa', that of
  alignment, all before their weights. The gradient is of their weighted sum,
  by parts if `optimizer.accumulate` says so.
  """
  config = context.config
  graphdef = nnx.graphdef(abstract_model(context.model))
  alignment = make_alignment(context, target) if target else None
  losses_of = make_losses(context, judges or {})
  condition_of = make_condition(context, encoder)

  def loss_fn(trained, inputs, teacher, step, encoder, judges):
    weights, projector = split(trained)
    if config.lora.rank:
      weights = frozen_but_adapters(weights)
    model = nnx.merge(graphdef, weights)
    x = interpolate(inputs.data, inputs.noise, inputs.t)
    arguments = x, inputs.t, condition_of(x, inputs, encoder)
    if alignment is None:
      output, tokens = model(*arguments, inputs.dropout), None
    else:
      output, tokens = model.with_patch_feature(
        *arguments, config.repa.block, inputs.dropout
      )
    images = x, inputs.t, inputs.data, inputs.noise
    of_examples = losses_of(output, *images, judges)
    total, losses = jax.tree.map(jnp.mean, of_examples)
    if alignment is None:
      return total, losses
    weight = repa_weight(config, step)
    repa = alignment(projector, tokens, inputs, teacher, weight)
    return total + weight * repa, losses | dict(repa=repa)

  if config.objective == 'mean_flow':
    loss_fn = make_mean_flow_loss(context, judges or {})
  elif is_diffusion(config):
    loss_fn = make_diffusion_loss(context)
  gradient_fn = jax.grad(loss_fn, has_aux=True)

  def gradients(
    trained, inputs, teacher=None, step=0, encoder=None, judges=None
  ):
    gradient, losses = _by_parts(
      lambda part: gradient_fn(trained, part, teacher, step, encoder, judges),
      inputs,
      config.optimizer.accumulate,
    )
    return losses, gradient

  return gradients


def _by_parts(
  f: Callable[[TrainingInputs], PyTree], inputs: TrainingInputs, parts: int
) -> PyTree:
  """The mean of f over equal parts of a batch, one part after another."""
  if parts == 1:
    return f(inputs)
  # Every parts-th example: each device keeps its share of every part.
  stacked = jax.tree.map(
    lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), inputs
  )

  def add(total, part):
    return jax.tree.map(lambda a, b: a + b / parts, total, f(part)), None

  first = jax.tree.map(lambda a: a[0], stacked)
  zero = jax.tree.map(
    lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(f, first)
  )
  return jax.lax.scan(add, zero, stacked)[0]


def make_update(
  config: ConfigDict, tx: optax.GradientTransformationExtraArgs
) -> Callable[[TrainState, Metrics, PyTree], tuple[TrainState, Metrics]]:
  """f(state, losses, gradients) -> the next state and what to log.

  A loss or gradient that is not finite changes nothing but the counters. An
  update that is not finite where both are is found by `MetricLogger`, which
  then ends the run: to look in every step would cost a pass over the state.
  """
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
  context: RunContext,
  tx: optax.GradientTransformationExtraArgs,
  target: AlignmentTarget | None = None,
  encoder: FrozenConfig | None = None,
  judges: Mapping[str, JudgeConfig] | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """f(state, batch, teacher=None, encoder=None, judges=None) -> state, metrics.

  It gives the next state and what to log.

  Args:
    context: configuration and network.
    tx: of `make_optimizer`.
    target: what REPA aligns with; the step then takes its weights, if it has
      any, as `teacher`.
    encoder: that grounds the network; the step then takes its weights.
    judges: networks of perceptual losses, and so are theirs, by name.

  Raises:
    UserError: the run is to align, and there is no target; or the network is
      grounded, and there is no encoder.
  """
  config = context.config
  if config.repa.weight and target is None:
    raise UserError(
      f'repa.weight={config.repa.weight} with repa.teacher='
      f'{config.repa.teacher!r}, but there is no teacher. Two ways to get one: '
      "by name (load_dinov2('facebook/dinov2-base'), where there is a network) "
      'or by path (load_dinov2(FILE)); pixeldit train does it by '
      'repa.teacher. repa.weight=0 trains without.'
    )
  if config.model.grounding_width and encoder is None:
    raise UserError(
      f'model.grounding_width={config.model.grounding_width}, but there is no '
      'encoder to learn from: name one by grounding.encoder (of this width '
      'facebook/dinov3-vits16-pretrain-lvd1689m is 384, vitb16 768, vitl16 '
      '1024; FILE; random for a trial), or set the width to 0.'
    )
  gradients = make_gradients(context, target, encoder, judges)
  update = make_update(config, tx)

  def train_step(state, batch, teacher=None, encoder=None, judges=None):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    inputs = sample_training_inputs(key, batch, config)
    found = gradients(
      state.trained, inputs, teacher, state.step, encoder, judges
    )
    return update(state, *found)

  return train_step
