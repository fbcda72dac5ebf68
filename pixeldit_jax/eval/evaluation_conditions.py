"""What samples are asked for in an evaluation: classes in turn, or captions."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax.data import captions
from pixeldit_jax.data.caption_sampler import ARRAYS, NULL, CaptionSampler
from pixeldit_jax.data.source import Source
from pixeldit_jax.sampling.class_labels import parse_labels
from pixeldit_jax.train.inputs import examples_of, open_data, open_held_out
from pixeldit_jax.typing import Condition, Int, TextCondition


def open_captions(config: ConfigDict) -> Source | None:
  """Where captions of an evaluation come from; None for a network of classes.

  They are of images that are not trained on where `data.held_out` has some.
  """
  if not config.model.text_width:
    return None
  return open_held_out(config) if config.data.held_out else open_data(config)


class EvaluationConditions:
  """The condition of each sample, the same in every evaluation."""

  def __init__(self, config: ConfigDict, source: Source | None = None):
    """Keeps where captions come from.

    Args:
      config: of the run.
      source: whose captions are drawn in turn, one of each image; a network of
        classes, which are drawn in turn, needs none.
    """
    self._config = config
    self._texts = None
    if config.model.text_width:
      assert source is not None, 'a network of texts is asked for captions'
      self._texts = _Texts(config, source)

  def of(
    self, indices: Int[np.ndarray, 'I']
  ) -> tuple[Condition, TextCondition | None]:
    """Of these samples: labels, or texts and as many null texts."""
    if self._texts:
      return self._texts.embedded(indices)
    labels = self.labels(indices)
    assert labels is not None
    return labels, None

  def labels(
    self, indices: Int[np.ndarray, 'I']
  ) -> Int[np.ndarray, 'I'] | None:
    """The labels of these samples; None of a network of texts."""
    if self._texts:
      return None
    classes = self._config.model.num_classes
    return parse_labels(None, classes, int(indices[-1]) + 1)[indices]

  def captions(self, indices: Int[np.ndarray, 'I']) -> list[str]:
    """The captions of these samples; none of a network of classes."""
    if not self._texts:
      return []
    return [text['caption'] for text in self._texts.read(indices)]


class _Texts:
  """One caption of each image of a source, by a draw of its own."""

  def __init__(self, config: ConfigDict, source: Source):
    self._source, self._seed = source, config.seed
    self._captioned, self._encode = examples_of(source)
    self._pick = CaptionSampler(
      self._captioned,
      dropout=0.0,
      weights=captions.parse_weights(config.data.caption_weights),
      min_score=config.data.caption_min_score,
    )

  def read(self, indices: Int[np.ndarray, 'I']) -> list[dict[str, Any]]:
    """The entries of `CaptionSampler`, images in turn."""
    count = len(self._captioned)
    return [
      self._pick(
        self._captioned[int(i) % count],
        np.random.default_rng((self._seed, int(i))),
      )
      for i in indices
    ]

  def embedded(
    self, indices: Int[np.ndarray, 'I']
  ) -> tuple[TextCondition, TextCondition]:
    """The texts, and as many null texts."""
    source, texts = self._source, self.read(indices)
    if self._encode:
      found = self._encode({'caption': [text['caption'] for text in texts]})
    else:
      found = {k: np.stack([text[k] for text in texts]) for k in ARRAYS}
    condition = TextCondition(*(np.asarray(found[k]) for k in ARRAYS))
    null = TextCondition(*(source.arrays[k].constant(NULL) for k in ARRAYS))
    return condition, jax.tree.map(
      lambda x, each: np.broadcast_to(x, each.shape), null, condition
    )
