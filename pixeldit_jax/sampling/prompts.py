"""The prompts that a set of samples shows, in place of classes."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.sampling.text_sampler import Encoder
from pixeldit_jax.typing import Int


@dataclasses.dataclass(frozen=True)
class Prompts:
  """What a text network is asked for.

  Attributes:
    texts: prompts that take turns.
    encoder: the one that the network was trained with.
    negative: what guidance leads away from; '' is no text.
    size: height and width, by default the run's resolution squared.
  """

  texts: Sequence[str]
  encoder: Encoder
  negative: str = ''
  size: tuple[int, int] | None = None

  def numbers(self, count: int) -> Int[np.ndarray, 'N']:
    """The prompt of each of `count` images."""
    return np.arange(count, dtype=np.int32) % len(self.texts)

  @property
  def told(self) -> dict[str, Any]:
    """What of it decides the images, as JSON values."""
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
  if text is None and path is None:
    raise UserError('a run with texts needs --prompts or --prompts_file.')
  if text is not None and path is not None:
    raise UserError('--prompts and --prompts_file: give one of them.')
  if path is not None:
    parts = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  else:
    parts = text.split(';')
  prompts = [part.strip() for part in parts if part.strip()]
  if not prompts:
    raise UserError(f'there is no prompt in {path or text!r}.')
  return prompts
