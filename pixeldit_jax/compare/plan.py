"""What is compared: networks, and for how long each is trained."""

import dataclasses
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from pixeldit_jax.benchmarks.step_time import measure_training
from pixeldit_jax.config.fit_to_data import specification
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.encoders.frozen import encoder_flops
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.cost import forward_flops, train_flops
from pixeldit_jax.run_context import RunContext

# What --preset=rivals compares: arguments of --config.
PRESETS = {
  'rivals': [
    f'mnist:model={model}'
    for model in (
      *('pixeldit', 'pixeldit2', 'deco', 'pixnerd', 'flatdit', 'jit'),
      *('dit', 'pixelflow'),
    )
  ],
}
_TIMED = 5  # steps that --seconds is planned by


@dataclasses.dataclass(frozen=True)
class Network:
  """One row of a comparison.

  Attributes:
    argument: of --config, and the name in the page.
    config: all values but the length of the run.
  """

  argument: str
  config: ConfigDict

  @property
  def name(self) -> str:
    """Of its folder: 'mnist_model_deco' for 'mnist:model=deco'."""
    return re.sub(r'[^A-Za-z0-9.-]+', '_', self.argument).strip('_.')


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What is the same for all networks of a comparison.

  Attributes:
    unit: 'steps', 'flops' (operations of training, 2 for a multiply-add) or
      'seconds' (of training steps, as this machine takes them).
    amount: how many each network gets.
    evaluations: during training, the last at its end.
    samples: images of an evaluation.
    evaluations_an_image: of the network, where all draw at equal evaluations.
  """

  unit: str
  amount: float
  evaluations: int
  samples: int
  evaluations_an_image: int = 50


def prepare(
  config: ConfigDict, data: str, features: str, values: dict
) -> ConfigDict:
  """Sets what all networks share: the data, and what measures the samples.

  Args:
    config: of one network; changed.
    data: a source or a folder of pictures; '' is that of the configuration.
    features: the feature network; '' is that of digits for the digits.
    values: other keys.

  Raises:
    UserError: there is no such key, or there are no such data.
  """
  for key, value in values.items():
    try:
      config.update_from_flattened_dict({key: value})
    except (TypeError, ValueError) as error:
      raise UserError(f'--set={key}={value!r}: {error}.') from error
  if data:
    config.data.source = specification(data)
    if not config.model.text_width:
      config.model.num_classes = open_source(config.data.source).num_classes
  digits = config.data.source == 'digits'
  config.eval.features = features or ('digits' if digits else 'none')
  if not config.eval.reference:
    config.eval.reference = config.data.source
  return config


def limit(network: Network, protocol: Protocol) -> RunContext:
  """The run of a network, as long as the protocol says.

  Raises:
    UserError: a configuration that cannot be.
  """
  config = network.config.copy_and_resolve_references()
  set_steps(config, protocol, 10)  # any length, to build the network once
  context = RunContext.build(config)
  steps = _steps(context, protocol)
  if steps < 1:
    raise UserError(
      f'--{protocol.unit}={protocol.amount:g} is less than a step of '
      f'{network.argument}: give more.'
    )
  set_steps(config, protocol, steps)
  return RunContext.build(config)


def set_steps(config: ConfigDict, protocol: Protocol, steps: int) -> None:
  """Sets the steps of a run, and all that is counted in steps."""
  config.steps = steps
  every = -(-steps // protocol.evaluations)
  config.eval.update(
    every=every,
    held_out_every=every,
    patience=0,  # all networks to the end
    samples=protocol.samples,
  )
  config.checkpoint.update(every=every, best='', keep_period=0)
  config.log.update(every=max(1, steps // 200), samples_every=0)
  optimizer = config.optimizer
  optimizer.warmup_steps = min(optimizer.warmup_steps, steps // 4)
  optimizer.drop_step = min(optimizer.drop_step, steps)


def step_flops(context: RunContext) -> float:
  """Operations of a training step, with a forward pass of the encoder."""
  config = context.config
  side = config.data.resolution
  network = train_flops(context.model, side, side, config.flow.stages)
  return config.data.batch_size * (network + _encoder_flops(context))


def image_flops(context: RunContext) -> float:
  """Operations of one forward pass of one image, with that of the encoder."""
  side = context.config.data.resolution
  return forward_flops(context.model, side, side) + _encoder_flops(context)


def _encoder_flops(context: RunContext) -> float:
  side = context.config.data.resolution
  if not context.encoder:
    return 0
  return encoder_flops(context.encoder[0], context.model.grid(side, side))


def _steps(context: RunContext, protocol: Protocol) -> int:
  """Steps of a network that the amount pays for, the same in all processes."""
  if protocol.unit == 'steps':
    return int(protocol.amount)
  if protocol.unit == 'flops':
    return round(protocol.amount / step_flops(context))
  seconds = float(measure_training(context.config, _TIMED)['seconds'])
  if jax.process_count() > 1:
    seconds = float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))
  return round(protocol.amount / seconds)


def check_names(networks: Sequence[Network]) -> None:
  """Raises UserError for two networks of one folder, or none at all."""
  names = [network.name for network in networks]
  if not names:
    raise UserError(
      'nothing to compare: give --config=mnist:model=deco, once for each '
      f'network, or --preset={" or ".join(PRESETS)}.'
    )
  if twice := {name for name in names if names.count(name) > 1}:
    raise UserError(
      f'two networks would have the folder {sorted(twice)[0]!r}: name each '
      'configuration once.'
    )
