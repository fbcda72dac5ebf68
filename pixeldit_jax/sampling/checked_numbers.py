"""Numbers that a caller gives in Python, checked before anything compiles."""

import math
import operator
from typing import Any

from pixeldit_jax.errors import UserError

MOST_SEED = 2**32 - 1  # as of `config.seed`


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
  """The integer, Python's or NumPy's.

  Raises:
    UserError: no integer, or out of its bounds.
  """
  try:
    number = operator.index(value)
    if least <= number and (most is None or number <= most):
      return number
  except TypeError:
    pass
  upper = '' if most is None else f' and at most {most}'
  raise UserError(f'{name}={value!r}: an integer, at least {least}{upper}.')


def finite(name: str, value: Any) -> float:
  """The number, Python's, NumPy's or JAX's.

  Raises:
    UserError: no number, or one that is not finite.
  """
  try:
    number = math.nan if isinstance(value, str) else float(value)
  except (TypeError, ValueError, OverflowError):
    number = math.nan
  if not math.isfinite(number):
    raise UserError(f'{name}={value!r}: expected a finite number, such as 1.5.')
  return number
