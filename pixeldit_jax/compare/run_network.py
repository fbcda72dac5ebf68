"""Trains one network of a comparison, draws with it, and keeps the result."""

import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pixeldit_jax import files, settings
from pixeldit_jax.compare.plan import (
  Network,
  Protocol,
  image_flops,
  limit,
  step_flops,
)
from pixeldit_jax.config import get_config
from pixeldit_jax.data.source import Source
from pixeldit_jax.encoders.autoencoder import autoencoder_flops
from pixeldit_jax.eval import feature_networks
from pixeldit_jax.eval.evaluation_conditions import (
  EvaluationConditions,
  open_captions,
)
from pixeldit_jax.eval.held_out_evaluator import HeldOutEvaluator
from pixeldit_jax.model.cost import count_parameters
from pixeldit_jax.model.families import family_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.evaluations import num_function_evaluations
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.evaluator import Evaluator
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.repa import load_teacher
from pixeldit_jax.train.run import record, workdir
from pixeldit_jax.train.run.tensorboard import read_events
from pixeldit_jax.typing import PyTree, UInt8

Result = dict[str, Any]
RESULT, SAMPLES = 'result.json', 'samples.npy'
SHOWN = 10  # images of a network in the page
SHOW = np.arange(SHOWN, dtype=np.int32)
FORM = {
  'argument': str,
  'family': str,
  'parameters': int,
  'image_flops': float,
  'step_flops': float,
  'batch_size': int,
  'steps': int,
  'seconds_per_step': float,
  'step_bytes': int,
  'sampler': dict,
  'evaluations': int,
  'seconds_an_image': float,
  'seconds_at_equal_evaluations': float,
  'patch_size': int,
  'loss': [list],
  'prompts?': [str],
  'decode_flops?': int,
  'metrics': dict,
  'changed': dict,
  'environment': dict,
}


def is_finished(folder: pathlib.Path) -> bool:
  """Whether the result of a network is there."""
  return (folder / RESULT).is_file()


def read_result(folder: pathlib.Path) -> Result:
  """The result of a network that is finished.

  Raises:
    UserError: the file is damaged.
  """
  return files.read_json(folder / RESULT, form=FORM)


def run_network(
  network: Network, folder: pathlib.Path, protocol: Protocol
) -> None:
  """Trains, or goes on, draws, and writes the result and some images.

  Args:
    network: what is trained.
    folder: its workdir, where the result is kept too.
    protocol: the same for all.

  Raises:
    UserError: see `train.loop.train`.
  """
  begun = workdir.is_begun(str(folder))
  context = limit(network, protocol)
  if begun and protocol.unit == 'seconds':  # keep what was planned at first
    steps = workdir.read_config(str(folder)).steps
    context = limit(network, Protocol('steps', steps, *_rest(protocol)))
  evaluators: list[Evaluator] = [feature_networks.make_evaluator(context)]
  if context.config.data.held_out:
    evaluators.append(HeldOutEvaluator(context))
  teacher = load_teacher(context.config)
  state = train(context, str(folder), evaluators, teacher)
  captions = open_captions(context.config)
  images, seconds = draw(context, state.ema, captions)
  equal = context.config.copy_and_resolve_references()
  draw_in(equal, protocol.evaluations_an_image)
  _, at_equal = draw(RunContext.build(equal), state.ema, captions)
  if jax.process_index() == 0:
    result = _facts(network, context, folder) | dict(
      seconds_an_image=seconds,
      seconds_at_equal_evaluations=at_equal,
      decode_flops=_decode_flops(context),
      prompts=EvaluationConditions(context.config, captions).captions(SHOW),
    )
    with files.replacing(folder / SAMPLES) as made, made.open('wb') as file:
      np.save(file, images)
    files.write_json(folder / RESULT, result)


def _rest(protocol: Protocol) -> tuple[int, int, int]:
  return (
    protocol.evaluations,
    protocol.samples,
    protocol.evaluations_an_image,
  )


def draw_in(config: ConfigDict, evaluations: int) -> None:
  """Sets a sampler that evaluates the network so often for an image."""
  stages = config.flow.stages if config.model.size_embed else 1
  config.sampler.update(steps=evaluations // stages, guidance=1.0)
  if config.model.prediction == 'noise':
    config.sampler.solver = 'ddim'
  elif config.sampler.solver != 'jump':
    config.sampler.solver = 'euler'


def draw(
  context: RunContext, weights: PyTree, captions: Source | None
) -> tuple[UInt8[np.ndarray, 'B H W C'], float]:
  """Images of all classes or captions in turn, and the seconds of one of them.

  They are drawn twice: the first time compiles.
  """
  sampler = Sampler(context, batch_size=SHOWN)
  wanted = EvaluationConditions(context.config, captions).of(SHOW)
  arguments = weights, SHOW, *wanted
  images = np.concatenate(list(sampler.sample(*arguments)))
  started = time.perf_counter()
  for _ in sampler.sample(*arguments):
    pass
  return images, (time.perf_counter() - started) / SHOWN


def _decode_flops(context: RunContext) -> int:
  """Operations to make an image of its latents; 0 where there are none."""
  if not (autoencoder := context.autoencoder):
    return 0
  side = context.config.data.resolution
  pixels, _, _ = context.image_shape(side, side)
  return autoencoder_flops(autoencoder.config, pixels)[1]


def _facts(
  network: Network, context: RunContext, folder: pathlib.Path
) -> Result:
  """What is known of a run that has ended."""
  config = context.config
  scalars = read_events(epath.Path(folder) / 'events').scalars
  progress = workdir.read_progress(str(folder))
  stored = settings.flatten(settings.as_json(config.to_dict()))
  defaults = settings.flatten(settings.as_json(get_config().to_dict()))
  metrics = workdir.read_evaluations(str(folder))
  return dict(
    argument=network.argument,
    family=family_of(context.model)[0],
    parameters=count_parameters(context.model),
    image_flops=image_flops(context),
    step_flops=step_flops(context),
    batch_size=config.data.batch_size,
    steps=config.steps,
    seconds_per_step=statistics.median(
      value for _, value in scalars['seconds_per_step']
    ),
    step_bytes=progress.get('step_bytes', 0),
    sampler=settings.as_json(config.sampler.to_dict()),
    evaluations=num_function_evaluations(config),
    patch_size=config.model.patch_size,
    loss=[list(point) for point in scalars['loss']],
    metrics={str(step): found for step, found in sorted(metrics.items())},
    changed={k: v for k, v in stored.items() if v != defaults.get(k)},
    environment={
      k: v for k, v in record.environment().items() if k != 'packages'
    },
  )
