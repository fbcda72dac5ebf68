"""Judges whether the samples of a run show what their captions say.

A CLIP is the better judge. Without one a probe is fitted to training images:
it knows what the features of the evaluation tell apart, and no more.
"""

import functools
import logging
import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax.data.source import Source
from pixeldit_jax.data.transforms import BadExample, crop, decode
from pixeldit_jax.errors import MissingFileError, MissingPackageError
from pixeldit_jax.eval.evaluation_conditions import EvaluationConditions
from pixeldit_jax.metrics.caption_rank import Probe, caption_ranks, fit_probe
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.train.inputs import examples_of, open_data
from pixeldit_jax.typing import Float, TextCondition, UInt8

log = logging.getLogger(__name__)

PROBE = 'probe'
JUDGED = 1024  # samples at most: each is compared with all captions
_FITTED = 512  # images of the probe
_BATCH = 32


class CaptionJudge(Protocol):
  """Looks at samples batch by batch.

  Attributes:
    sees_features: what it embeds is what the feature network gives.
  """

  sees_features: bool

  def embed(self, images: UInt8[np.ndarray, 'B H W 3']) -> np.ndarray:
    """A vector of each image."""

  def scores(
    self, embedded: np.ndarray, indices: np.ndarray
  ) -> Float[np.ndarray, 'N N']:
    """Of these vectors with the captions of these samples."""


def make_judge(
  config: ConfigDict, network: FeatureNetwork, conditions: EvaluationConditions
) -> CaptionJudge | None:
  """The judge that `eval.captions` names; None for a network of classes.

  Args:
    config: of the run.
    network: the features that a probe is fitted to; with none there is none.
    conditions: of the samples.

  Raises:
    MissingFileError: there is no CLIP.
    MissingPackageError: a package is missing that reads it.
  """
  name = config.eval.captions
  if not config.model.text_width or not name:
    return None
  if name != PROBE:
    return _Clip(name, conditions)
  return (
    _FittedProbe(config, network, conditions) if network.widths[0] else None
  )


def measure(
  judge: CaptionJudge,
  embedded: np.ndarray,
  conditions: EvaluationConditions,
) -> dict[str, float]:
  """The metrics of `caption_ranks` for the first samples."""
  indices = np.arange(len(embedded))
  captions = conditions.captions(indices)
  return caption_ranks(judge.scores(embedded, indices), captions)


class _FittedProbe:
  """A probe, fitted when it is first needed."""

  sees_features = True

  def __init__(
    self,
    config: ConfigDict,
    network: FeatureNetwork,
    conditions: EvaluationConditions,
  ):
    self._config, self._network = config, network
    self._conditions = conditions

  def embed(self, images: UInt8[np.ndarray, 'B H W 3']) -> np.ndarray:
    return np.concatenate([f.pooled for f in self._network.extract([images])])

  def scores(
    self, embedded: np.ndarray, indices: np.ndarray
  ) -> Float[np.ndarray, 'N N']:
    return self._probe.scores(embedded, _vectors(self._conditions, indices))

  @functools.cached_property
  def _probe(self) -> Probe:
    source = open_data(self._config)
    count = min(_FITTED, len(source))
    indices = np.arange(count) * len(source) // count
    log.info('Fitting a probe of captions to %d images', count)
    read: list[int] = []
    images = self._images(examples_of(source)[0], indices.tolist(), read)
    features = [f.pooled for f in self._network.extract(images)]
    conditions = EvaluationConditions(self._config, source)
    vectors = _vectors(conditions, np.array(read))
    return fit_probe(np.concatenate(features), vectors)

  def _images(
    self, source: Source, indices: list[int], read: list[int]
  ) -> Iterator[UInt8[np.ndarray, '1 S S 3']]:
    """Yields those that can be read, whose indices are added to `read`."""
    side = self._config.data.resolution
    for index in indices:
      try:
        image = crop(decode(source[index]['image']), side, side)
      except BadExample:
        continue
      read.append(index)
      yield image[None]


def _vectors(
  conditions: EvaluationConditions, indices: np.ndarray
) -> Float[np.ndarray, 'N T']:
  """The mean over the tokens of each text."""
  parts = []
  for start in range(0, len(indices), _BATCH):
    text: Any = conditions.of(indices[start : start + _BATCH])[0]
    assert isinstance(text, TextCondition)
    tokens = np.asarray(text.tokens, np.float32)
    mask = np.ones(tokens.shape[:2], bool) if text.mask is None else text.mask
    weight = np.asarray(mask, np.float32)[..., None]
    parts.append((weight * tokens).sum(1) / np.maximum(1, weight.sum(1)))
  return np.concatenate(parts)


class _Clip:
  """A CLIP in the form of `transformers`, from a folder."""

  sees_features = False

  def __init__(self, folder: str, conditions: EvaluationConditions):
    path = os.path.expanduser(folder)
    if not os.path.isdir(path):
      raise MissingFileError(
        f'eval.captions={folder!r}: no such folder; give one with a CLIP of '
        f'transformers, or {PROBE!r}.'
      )
    try:
      import torch
      import transformers
    except ImportError as error:
      raise MissingPackageError(
        'eval.captions=FOLDER reads a CLIP by transformers and torch: pip '
        "install 'pixeldit_jax[torch,transformers]'."
      ) from error
    self._torch, self._conditions = torch, conditions
    self._model = transformers.CLIPModel.from_pretrained(path).eval()
    self._read = transformers.CLIPImageProcessor.from_pretrained(path)
    self._tokens = transformers.CLIPTokenizer.from_pretrained(path)

  def embed(self, images: UInt8[np.ndarray, 'B H W 3']) -> np.ndarray:
    pixels = self._read(list(images), return_tensors='pt')
    with self._torch.inference_mode():
      return _pooled(self._model.get_image_features(**pixels))

  def scores(
    self, embedded: np.ndarray, indices: np.ndarray
  ) -> Float[np.ndarray, 'N N']:
    parts = []
    for start in range(0, len(indices), _BATCH):
      texts = self._conditions.captions(indices[start : start + _BATCH])
      tokens = self._tokens(
        texts, padding=True, truncation=True, return_tensors='pt'
      )
      with self._torch.inference_mode():
        parts.append(_pooled(self._model.get_text_features(**tokens)))
    of_texts = np.concatenate(parts)
    norms = np.linalg.norm(of_texts, axis=-1, keepdims=True)
    return embedded @ (of_texts / norms).T


def _pooled(features: Any) -> np.ndarray:
  """Of a tensor, or of what newer versions of transformers put it into."""
  return np.asarray(getattr(features, 'pooler_output', features))
