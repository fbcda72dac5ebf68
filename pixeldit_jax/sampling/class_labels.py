"""Classes by number or by name, as people ask for them."""

import difflib
import operator
from collections.abc import Sequence

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Int


def parse_labels(
  text: str | None, num_classes: int, count: int, names: Sequence[str] = ()
) -> Int[np.ndarray, 'B']:
  """'0,3,5-7' or 'cat,dog' to `count` labels that take these classes in turn.

  Without classes there is one label, 0, of no class.

  Raises:
    UserError: not of this form, a class that does not exist, or no images.
  """
  if count < 1:
    raise UserError(f'num_samples={count}: at least 1.')
  if not num_classes and not text:
    return np.zeros(count, np.int32)
  classes: list[int] = []
  for part in (text or f'0-{num_classes - 1}').split(','):
    first, _, last = part.partition('-')
    if part.strip() in names:
      classes.append(names.index(part.strip()))
      continue
    try:
      classes += range(int(first), int(last or first) + 1)
    except ValueError:
      raise UserError(
        f'labels={text!r}: write classes as 0,3,7 or 0-9'
        f'{_nearest(part.strip(), names)}.'
      ) from None
  wrong = [label for label in classes if not 0 <= label < num_classes]
  if wrong or not classes:
    raise UserError(
      f'labels={text!r}: {wrong or "none"} is not a class of this run; there '
      + (f'are 0 to {num_classes - 1}.' if num_classes else 'are none.')
    )
  return np.resize(np.asarray(classes, np.int32), count)


def read_labels(
  wanted: Sequence[int | str], num_classes: int, names: Sequence[str] = ()
) -> list[int]:
  """Numbers or names of classes to labels.

  Raises:
    UserError: a class that does not exist.
  """
  labels = []
  for one in wanted:
    if isinstance(one, str) and one in names:
      labels.append(names.index(one))
      continue
    try:
      label = int(one) if isinstance(one, str) else operator.index(one)
    except (ValueError, TypeError):
      label = -1
    if not 0 <= label < num_classes:
      raise UserError(
        f'{one!r} is not a class of this run; there are 0 to '
        f'{num_classes - 1}{_nearest(str(one), names)}.'
      )
    labels.append(label)
  return labels


def _nearest(name: str, names: Sequence[str]) -> str:
  """What else could be written for a name that is none."""
  if not names:
    return ''
  near = difflib.get_close_matches(name, names, n=3) or names[:3]
  return f', or names such as {", ".join(near)}'
