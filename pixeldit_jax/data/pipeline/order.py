"""Which example stands where in the endless stream of examples."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from pixeldit_jax.data.pipeline import shuffle
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.source import Source
from pixeldit_jax.errors import UserError

log = logging.getLogger(__name__)


class Slot(NamedTuple):
  """What one position of the stream holds.

  Attributes:
    example: its index in the source.
    shape: height and width of its pixels.
  """

  example: int
  shape: tuple[int, int]


class Order(NamedTuple):
  """The order of the stream, with random access.

  Attributes:
    slot_at: position in the stream to its slot. All positions of one batch
      have the same shape.
    identity: what the order depends on, as JSON values. It is saved with the
      position, so that a run resumes in the same order only.
  """

  slot_at: Callable[[int], Slot]
  identity: dict[str, Any]


def square_order(
  source: Source, options: LoaderOptions, order: int = shuffle.FEISTEL
) -> Order:
  """Squares of one resolution; every epoch is one shuffle of the source.

  Args:
    source: the examples.
    options: how batches are made.
    order: see `shuffle.Epochs`.

  Raises:
    UserError: a batch is larger than the source.
  """
  if source.buckets:
    log.warning(
      'the data were prepared in aspect-ratio buckets, but data.buckets=False: '
      'all images are cut to squares of %d',
      options.resolution,
    )
  if options.batch_size > len(source) > 0:
    raise UserError(
      f'batch_size {options.batch_size} is more than the {len(source)} '
      'examples of the source: a batch would repeat some; lower batch_size'
    )
  count, shape = len(source), (options.resolution, options.resolution)
  if options.shuffle:
    index_at: Callable[[int], int] = shuffle.Epochs(
      count, options.seed, order=order
    )
  else:
    index_at = lambda position: position % count  # noqa: E731
  identity = {
    'examples': count,
    'seed': options.seed,
    'shuffle': options.shuffle,
  }
  return Order(
    lambda position: Slot(index_at(position), shape),
    with_version(identity, order),
  )


def with_version(identity: dict[str, Any], order: int) -> dict[str, Any]:
  """The identity, saved of older runs without the version of their order."""
  return identity if order == shuffle.GRAIN else identity | {'order': order}
