"""Images for prompts: a text encoder before the sampler."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax.errors import UserError
from pixeldit_jax.sampling.sampler import (
  make_sample_fn,
  sample_images,
  whole_batch,
)
from pixeldit_jax.typing import Bool, Float, Int, PyTree, UInt8

# f(prompts, places in the sample set) -> batches of images, in this order.
PromptSampler = Callable[
  [Sequence[str], Int[np.ndarray, 'N']], Iterator[UInt8[np.ndarray, 'B H W C']]
]


class Encoder(Protocol):
  """What is used of `encoders.text.TextEncoder`."""

  meta: dict[str, Any]

  def encode(
    self, texts: Sequence[str], *, negative: bool = False
  ) -> tuple[Float[np.ndarray, 'B T C'], Bool[np.ndarray, 'B T']]: ...


def make_prompt_sampler(
  config: ConfigDict,
  mesh: Mesh,
  weights: PyTree,
  encoder: Encoder,
  *,
  negative: str = '',
  size: tuple[int, int] | None = None,
) -> PromptSampler:
  """The sampler of a text network, called by all processes alike.

  Image i depends on its prompt, the seed and its place i alone.

  Args:
    config: of the run, with the sampler and seed wanted.
    mesh: where the weights are.
    weights: of the network.
    encoder: the one that the network was trained with.
    negative: what guidance leads away from; '' is no text.
    size: height and width, by default the run's resolution squared.

  Raises:
    UserError: embeddings of another width than the network takes, or a size
      that does not divide into patches.
  """
  width = encoder.meta['width']
  if width != config.model.text_width:
    raise UserError(
      f'the text encoder {encoder.meta["encoder"]!r} is {width} wide, but the '
      f'network takes {config.model.text_width} (model.text_width).'
    )
  sample = make_sample_fn(config, mesh, size=size)
  at_once = whole_batch(config, mesh)
  away = dict(
    zip(
      ('negative', 'negative_mask'), encoder.encode([negative], negative=True)
    )
  )

  def images(prompts, indices):
    for start in range(0, len(prompts), at_once):
      part = slice(start, start + at_once)
      text, mask = encoder.encode(prompts[part])
      condition = dict(text=text, text_mask=mask) | {
        name: np.repeat(one, len(text), axis=0) for name, one in away.items()
      }
      yield from sample_images(
        config, mesh, sample, weights, np.asarray(indices)[part], condition
      )

  return images
