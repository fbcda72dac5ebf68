"""Images for prompts: a text encoder in front of the sampler."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from pixeldit_jax import files
from pixeldit_jax.errors import UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.storage import downloads
from pixeldit_jax.typing import Int, PyTree, TextCondition, UInt8


class Encoder(Protocol):
  """The part of `encoders.text.TextEncoder` that sampling uses."""

  meta: dict[str, Any]

  def encode(
    self, texts: Sequence[str], *, negative: bool = False
  ) -> TextCondition: ...


@dataclasses.dataclass(frozen=True)
class Prompts:
  """The prompts of a sample set, used in turn, and how they are encoded.

  Attributes:
    texts: the prompts.
    encoder: the one that the network was trained with.
    negative: the text that guidance leads away from; '' is no text.
    size: height and width, by default the run's resolution squared.
  """

  texts: Sequence[str]
  encoder: Encoder
  negative: str = ''
  size: tuple[int, int] | None = None

  def numbers(self, count: int) -> Int[np.ndarray, 'I']:
    """The index in `texts` of the prompt of each of `count` images."""
    return np.arange(count, dtype=np.int32) % len(self.texts)

  @property
  def settings(self) -> dict[str, Any]:
    """Everything here that decides the images, as JSON values."""
    return dict(
      prompts=list(self.texts),
      encoder=self.encoder.meta,
      negative=self.negative,
      size=list(self.size) if self.size else None,
    )


def read_prompts(text: str | None, path: str | None) -> list[str]:
  """'a red seven; a blue two', or the lines of a file.

  Raises:
    OSError: there is no such file.
    UserError: both, neither, or no prompt in them.
  """
  if text is not None and path is not None:
    raise UserError('--prompts and --prompts_file: give one of them.')
  if text is not None:
    if pathlib.Path(text.strip()).suffix in ('.txt', '.json', '.jsonl', '.csv'):
      raise UserError(
        f'--prompts={text}: that is the name of a file, which would be drawn '
        f'as a prompt. Read it by --prompts_file={text}'
      )
    parts = text.split(';')
  elif path is not None:
    # Editors of Windows write a mark before the first line.
    parts = files.read_text(downloads.here(path), 'utf-8-sig').splitlines()
  else:
    raise UserError('a run with texts needs --prompts or --prompts_file.')
  prompts = [part.strip() for part in parts if part.strip()]
  if not prompts:
    raise UserError(f'there is no prompt in {path or text!r}.')
  return prompts


class TextSampler:
  """The sampler of a text network.

  Attributes:
    batch_size: images made at once, see `Sampler`.
  """

  def __init__(
    self,
    context: RunContext,
    weights: PyTree,
    prompts: Prompts,
    batch_size: int | None = None,
  ):
    """Prepares the sampler and encodes the negative prompt.

    Args:
      context: of the run, with the sampler and seed wanted.
      weights: of the network, on the mesh.
      prompts: encoder, negative prompt and size; its texts are not used.
      batch_size: see `Sampler`.

    Raises:
      UserError: embeddings of another width than the network takes, or a size
        that does not divide into patches.
    """
    self._encoder, self._weights = prompts.encoder, weights
    meta, expected = prompts.encoder.meta, context.config.model.text_width
    if meta['width'] != expected:
      raise UserError(
        f'the text encoder {meta["encoder"]!r} is {meta["width"]} wide, but '
        f'the network takes {expected} (model.text_width).'
      )
    self._sampler = Sampler(context, size=prompts.size, batch_size=batch_size)
    self.batch_size = self._sampler.batch_size
    self._negative = prompts.encoder.encode([prompts.negative], negative=True)

  def sample(
    self, texts: Sequence[str], indices: Int[np.ndarray, 'I']
  ) -> Iterator[UInt8[np.ndarray, 'B H W C']]:
    """Yields batches of images for these prompts, in all processes alike.

    An image depends only on its prompt, the seed and its index.

    Args:
      texts: the prompt of each image.
      indices: of the images in the sample set.
    """
    indices = np.asarray(indices)
    for start in range(0, len(texts), self.batch_size):
      part = slice(start, start + self.batch_size)
      condition = self._encoder.encode(texts[part])
      unconditional = _repeat(self._negative, len(condition.tokens))
      yield from self._sampler.sample(
        self._weights, indices[part], condition, unconditional
      )


def _repeat(text: TextCondition, count: int) -> TextCondition:
  """One embedded text as often as there are images."""
  return jax.tree.map(lambda x: np.repeat(x, count, axis=0), text)
