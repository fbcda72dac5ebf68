"""Checks the arrays of signatures at run time, by jaxtyping and beartype.

Other annotations are mypy's: tests pass stand-ins where a whole object is more
than they need.
"""

import inspect
import typing
from collections.abc import Callable
from typing import Any

import beartype
from jaxtyping import AbstractArray


def checked(function: Callable) -> Callable:
  """The function, checked wherever its signature names an array's shape."""
  if function.__name__ == '__init__':  # of a dataclass that is a tree: it holds
    return function  # shapes and shardings, too, in the places of its arrays
  hints = {
    name: hint if _has_array(hint) else Any
    for name, hint in function.__annotations__.items()
  }
  if all(hint is Any for hint in hints.values()):
    return function
  function.__annotations__ = hints
  signature = inspect.signature(function)
  function.__signature__ = signature.replace(
    parameters=[
      parameter.replace(annotation=hints.get(name, parameter.empty))
      for name, parameter in signature.parameters.items()
    ],
    return_annotation=hints.get('return', signature.empty),
  )
  return beartype.beartype(function)


def _has_array(hint: object) -> bool:
  if isinstance(hint, type) and issubclass(hint, AbstractArray):
    return True
  return any(map(_has_array, typing.get_args(hint)))
