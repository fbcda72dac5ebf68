"""Metrics of the EMA during training, with the same seeds and labels always."""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from pixeldit_jax.data.source import Source
from pixeldit_jax.eval.caption_judge import JUDGED, make_judge, measure
from pixeldit_jax.eval.evaluation_conditions import EvaluationConditions
from pixeldit_jax.eval.reference import Reference
from pixeldit_jax.eval.report import evaluate
from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.metrics.image_statistics import collect
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.evaluator import never_stop
from pixeldit_jax.typing import PyTree, UInt8

log = logging.getLogger(__name__)

_BYTES = 4096  # for the metrics of the first process


class OnlineEvaluator:
  """An `Evaluator` of `config.eval.samples` images, which are not kept.

  Distances, Inception Score and class agreement, whichever the network gives;
  of a network of texts how well samples choose their captions.

  Attributes:
    every: steps between two evaluations.
  """

  def __init__(
    self,
    context: RunContext,
    network: FeatureNetwork,
    reference: Reference | None,
    source: Source | None = None,
  ):
    """Prepares the sampler.

    Args:
      context: of the run.
      network: the feature network; only the first process runs it.
      reference: what to compare with; the other processes need none.
      source: whose captions are drawn; a network of classes needs none.
    """
    config = context.config
    self.every = config.eval.every
    self._network, self._reference = network, reference
    self._sampler = Sampler(context)
    self._indices = np.arange(config.eval.samples)
    self._conditions = EvaluationConditions(config, source)
    self._labels = self._conditions.labels(self._indices)
    self._judge = make_judge(config, network, self._conditions)
    patch = config.model.patch_size
    self._patch, _, _ = context.image_shape(patch, patch)
    self._shown = config.log.samples

  def __call__(
    self,
    step: int,
    ema_params: PyTree,
    check_stop: Callable[[], None] = never_stop,
  ) -> Iterator[tuple[str, float | UInt8[np.ndarray, 'H W 3']]]:
    """Yields metrics by name and, in the first process, a grid of samples."""
    metrics, shown = self._measure(ema_params, check_stop)
    metrics = _of_first_process(metrics)
    line = '  '.join(f'{name} {value:.4f}' for name, value in metrics.items())
    log.info('step %s  %s', f'{step:,}', line)
    yield from metrics.items()
    if shown is not None:
      columns = math.ceil(math.sqrt(len(shown)))
      yield 'samples', image_grid(shown, columns)

  def _measure(
    self, ema_params: PyTree, check_stop: Callable[[], None]
  ) -> tuple[dict[str, float], UInt8[np.ndarray, 'B H W 3'] | None]:
    """Metrics and the first images, in the first process."""
    batches = self._sample(ema_params)
    reference = self._reference
    if jax.process_index() or reference is None:
      for _ in batches:  # its devices take part
        check_stop()
      return {}, None
    first: list[np.ndarray] = []
    embedded: list[np.ndarray] = []
    judge, network = self._judge, self._network
    looks = judge if judge and not judge.sees_features else None

    def keep_first(batches):
      for images in batches:
        if sum(map(len, first)) < self._shown:
          first.append(images)
        if looks and sum(map(len, embedded)) < JUDGED:
          embedded.append(looks.embed(images))
        yield images
        check_stop()

    count = len(self._indices)
    keep = count if network.classify or (judge and not looks) else 0
    samples = collect(keep_first(batches), network, count, keep=keep)
    seen = np.concatenate(embedded) if looks else samples.features
    if not network.classify:  # distances of features would be asked for
      samples = dataclasses.replace(samples, features=None)
    result = evaluate(
      samples,
      reference,
      network,
      settings={},
      labels=self._labels,
      patch=self._patch,
    )
    metrics = result['metrics']
    if judge and seen is not None:
      metrics |= measure(judge, seen[:JUDGED], self._conditions)
    return metrics, np.concatenate(first)[: self._shown]

  def _sample(
    self, ema_params: PyTree
  ) -> Iterator[UInt8[np.ndarray, 'B H W 3']]:
    """All images; texts are read for a batch at a time."""
    indices, size = self._indices, self._sampler.batch_size
    if self._labels is not None:
      yield from self._sampler.sample(ema_params, indices, self._labels)
      return
    for start in range(0, len(indices), size):
      part = indices[start : start + size]
      wanted = self._conditions.of(part)
      yield from self._sampler.sample(ema_params, part, *wanted)


def _of_first_process(metrics: dict[str, float]) -> dict[str, float]:
  """Its metrics, in every process: all must keep the same checkpoint."""
  text = json.dumps(metrics).encode()
  padded = np.frombuffer(text.ljust(_BYTES), np.uint8)
  shared = multihost_utils.broadcast_one_to_all(padded)
  return json.loads(bytes(shared))
