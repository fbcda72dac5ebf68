"""Metrics of the EMA during training, with the same seeds and labels."""

import json
import logging

import jax
import numpy as np
from jax.experimental import multihost_utils

from pixeldit_jax.eval.reference import Reference
from pixeldit_jax.eval.report import class_agreement, evaluate
from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.metrics.image_statistics import collect
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler

log = logging.getLogger(__name__)

_BYTES = 4096  # for the numbers of the first process


def make_metric_evaluator(
  context: RunContext,
  network: FeatureNetwork,
  reference: Reference | None,
):
  """f(step, weights) -> numbers by metric, and a grid of the first samples.

  Distances, Inception Score and class agreement, whichever the network has, of
  `config.eval.samples` images. Images are neither kept nor written.

  Args:
    context: of the run.
    network: the feature network; only the first process runs it.
    reference: what to compare with; needed only by the first process.
  """
  config = context.config
  count = config.eval.samples
  indices = np.arange(count)
  labels = indices % config.model.num_classes
  sampler = Sampler(context)

  def measure(weights):
    batches = sampler.sample(weights, indices, labels)
    if jax.process_index():
      for _ in batches:  # its devices take part
        pass
      return {}, None
    shown = []

    def watched():
      for images in batches:
        if sum(map(len, shown)) < config.log.samples:
          shown.append(images)
        yield images

    keep = count if network.classify else 0
    samples = collect(watched(), network, count, keep=keep)
    more = class_agreement(samples, network, labels)
    result = evaluate(samples, reference, network, settings={}, more=more)
    return result['metrics'], np.concatenate(shown)[: config.log.samples]

  def evaluator(step, weights):
    numbers, shown = measure(weights)
    numbers = _of_first_process(numbers)
    line = '  '.join(f'{name} {value:.4f}' for name, value in numbers.items())
    log.info('step %s  %s', f'{step:,}', line)
    if shown is None:
      return numbers
    columns = int(np.ceil(np.sqrt(len(shown))))
    return numbers | {'samples': image_grid(shown, columns)}

  return evaluator


def _of_first_process(numbers: dict[str, float]) -> dict[str, float]:
  """Its numbers, in every process: all must keep the same checkpoint."""
  text = json.dumps(numbers).encode()
  padded = np.frombuffer(text.ljust(_BYTES), np.uint8)
  shared = multihost_utils.broadcast_one_to_all(padded)
  return json.loads(bytes(shared))
