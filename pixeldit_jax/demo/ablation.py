"""The paper's ablations on the embedded digits, at equal steps (table 4).

Each variant is a separate run. Its EMA is measured by the flow-matching loss on
the same digits, noise and times for all, and by the share of samples that show
the digit that was asked for.
"""

import logging
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from pixeldit_jax import files, settings
from pixeldit_jax.config import model_config, validate
from pixeldit_jax.data.sources.mnist_digits import SIDE, load_digits
from pixeldit_jax.data.transforms import normalize
from pixeldit_jax.demo import digit_classifier
from pixeldit_jax.encoders.vision import VisionConfig
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.loss import flow_matching_loss
from pixeldit_jax.flow.path import interpolate, velocity
from pixeldit_jax.flow.time import sample_time
from pixeldit_jax.images.plots import bar_plot
from pixeldit_jax.metrics.class_agreement import class_agreement
from pixeldit_jax.model.cost import count_parameters
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.noise import sample_noise
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.loop import train
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)

# The changes of the configuration, by the name of the variant.
VARIANTS: dict[str, dict[str, object]] = {
  'baseline': {},
  'REPA': {'repa.weight': 0.5},
  'patch-wise AdaLN': {'model.pixel_adaln': 'patch'},
  'global AdaLN': {'model.pixel_adaln': 'global'},
  'no PiT attention': {'model.pixel_attention': 'none'},
  'post-modulation': {'model.modulation': 'post'},
  'single level': {'model.pixel_depth': 0},
}
LOSS_DIGITS = 2000  # every so many of the 5,000, in the same order


def variant_config(config: ConfigDict, name: str) -> ConfigDict:
  """The configuration of a variant, checked.

  Raises:
    UserError: it is impossible, or not of digits.
  """
  changed = ConfigDict(config.to_dict())
  changed.update_from_flattened_dict(VARIANTS[name])
  validate(changed)
  if (changed.model.num_classes, changed.data.resolution) != (10, SIDE):
    raise UserError(
      f'variants are measured on digits: give a configuration of 10 classes at '
      f'{SIDE} pixels, as --config=configs/mnist.py.'
    )
  return changed


def run_variant(
  config: ConfigDict,
  workdir: str,
  teacher: tuple[VisionConfig, PyTree],
  samples: int,
) -> dict[str, float]:
  """Trains a variant, or continues its run, and measures it once.

  Args:
    config: from `variant_config`.
    workdir: folder of its run, where the result is kept too.
    teacher: for REPA, where the variant has it.
    samples: how many to draw, all classes in turn.

  Returns:
    'loss', 'agreement' and 'parameters', and of how many 'steps' and 'samples'.

  Raises:
    UserError: the stored result is of other steps or samples.
  """
  path = pathlib.Path(workdir) / 'result.json'
  asked = dict(steps=config.steps, samples=samples)
  if path.is_file():
    result = files.read_json(path)
    fix = 'Take another workdir.'
    settings.check_same(f'{path} is of', result, asked, fix, keys=asked)
    return result
  context = RunContext.build(config)
  state = train(context, workdir, teacher=teacher)
  ema = jax.device_get(state.ema)
  labels = (np.arange(samples) % config.model.num_classes).astype(np.int32)
  sampler = Sampler(context)
  drawn = sampler.sample(ema, np.arange(samples), labels)
  shown = digit_classifier.predict(np.concatenate(list(drawn)))
  result = dict(
    loss=digit_loss(config, ema),
    agreement=class_agreement(shown, labels),
    parameters=count_parameters(model_config(config)),
    **asked,
  )
  files.write_json(path, result)
  return result


def digit_loss(config: ConfigDict, weights: PyTree, count=LOSS_DIGITS) -> float:
  """Mean flow-matching loss on digits, with the same noise and times always.

  Times are drawn as in training.
  """
  images, labels = load_digits()
  chosen = np.linspace(0, len(labels) - 1, count).astype(np.int32)
  graphdef = nnx.graphdef(abstract_model(model_config(config)))

  @jax.jit
  def loss(weights, images, labels, indices):
    model = nnx.merge(graphdef, weights)
    data = normalize(jnp.repeat(images, config.model.in_channels, axis=3))
    noise = sample_noise(0, indices, (SIDE, SIDE, data.shape[3]))
    key = jax.random.fold_in(jax.random.key(1), indices[0])
    t = sample_time(key, len(indices), config.flow.shift)
    predicted = model(interpolate(data, noise, t), t, labels)
    return flow_matching_loss(predicted, velocity(data, noise)).mean()

  parts = np.split(chosen, max(1, count // 100))
  return float(np.mean([loss(weights, images[i], labels[i], i) for i in parts]))


def markdown_table(results: Mapping[str, Mapping[str, float]]) -> str:
  """One row for each variant."""
  lines = [
    '| variant | parameters | final loss | agreement |',
    '|---|--:|--:|--:|',
  ]
  for name, r in results.items():
    lines.append(
      f'| {name} | {r["parameters"]:,} | {r["loss"]:.4f} | '
      f'{r["agreement"]:.1%} |'
    )
  return '\n'.join(lines)


def plot(
  path: str | os.PathLike, results: Mapping[str, Mapping[str, float]]
) -> None:
  """Draws the loss and the agreement of each variant as bars."""
  panels = {
    'final loss (less is better)': 'loss',
    'samples that show their digit': 'agreement',
  }
  bar_plot(
    path,
    {
      title: {name: result[key] for name, result in results.items()}
      for title, key in panels.items()
    },
    formats={'samples that show their digit': '{:.1%}'},
  )
