"""What is known of the released weights of one family."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pixeldit_jax.convert.blocks import Shapes
from pixeldit_jax.convert.lazy import LazyTensors
from pixeldit_jax.convert.rules import Rule
from pixeldit_jax.model.config import ModelConfig


def as_they_are(tensors: LazyTensors, config: ModelConfig) -> LazyTensors:
  """The same tensors."""
  del config
  return tensors


@dataclasses.dataclass(frozen=True)
class Release:
  """How the weights of a family are named.

  Attributes:
    marks: patterns of names; a file is of the family if it has one of each.
    fields_of: f(shapes, overrides) -> fields of `ModelConfig` that weights
      decide, given those that the caller knows.
    rules: f(config) -> all weights that we keep as such.
    sizes: f(config) -> the length of each letter of the rules.
    before: f(released, config) -> tensors that the rules know.
    after: its inverse.
    check: f(config) raises UserError for a network without released names.
  """

  marks: tuple[str, ...]
  fields_of: Callable[[Shapes, Mapping[str, Any]], dict[str, Any]]
  rules: Callable[[ModelConfig], list[Rule]]
  sizes: Callable[[ModelConfig], dict[str, int]]
  before: Callable[[LazyTensors, ModelConfig], LazyTensors] = as_they_are
  after: Callable[[LazyTensors, ModelConfig], LazyTensors] = as_they_are
  check: Callable[[ModelConfig], None] = lambda config: None
