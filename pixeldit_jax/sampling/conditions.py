"""What images are to show: labels, names or prompts for the network."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax.errors import UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.class_labels import read_labels
from pixeldit_jax.train.run import trained_on
from pixeldit_jax.train.run.trained_on import read_class_names
from pixeldit_jax.typing import Condition, TextCondition

# Classes by number or name, or prompts; a single one too.
Wanted = Sequence[int | str] | int | str


class ConditionReader:
  """Reads labels or prompts for the network of a run.

  Attributes:
    class_names: by label; () where there are prompts, or no names.
  """

  def __init__(self, context: RunContext, workdir: str | None):
    """Prepares; the text encoder is loaded when it is first needed.

    Args:
      context: of the run.
      workdir: its folder, None of a released file, which has no text encoder.
    """
    self._workdir, self._model = workdir, context.config.model
    self.class_names = read_class_names(workdir) if workdir else ()
    self._encoder: Any = None

  def read(self, wanted: Wanted) -> list[Any]:
    """Checked labels or prompts, at least one.

    Raises:
      UserError: a class that does not exist, or none at all.
    """
    if isinstance(wanted, str | int | np.integer):
      wanted = [wanted]
    if not np.iterable(wanted):
      raise UserError(
        f'{wanted!r} is no label, no prompt, and no list of them.'
      )
    wanted = list(wanted)
    if not wanted:
      raise UserError('no label and no prompt: give at least one, or None.')
    if self._model.text_width:
      for text in wanted:
        if not isinstance(text, str):
          raise UserError(f'{text!r} is no prompt: expected a string.')
      return wanted
    return read_labels(wanted, self._model.num_classes, self.class_names)

  def in_turn(self, wanted: Wanted | None, count: int) -> list[Any]:
    """One for each of `count` images; None is the null class or no text."""
    known = [None] if wanted is None else self.read(wanted)
    return [known[i % len(known)] for i in range(count)]

  def __call__(
    self, known: Sequence[Any], negative: str = ''
  ) -> tuple[Condition, TextCondition | None]:
    """What the network is given, and what guidance leads away from.

    Args:
      known: what `in_turn` gives.
      negative: a prompt; a network of classes has its null class.
    """
    if not self._model.text_width:
      null = self._model.num_classes
      labels = [null if label is None else label for label in known]
      return np.asarray(labels, np.int32), None
    encoder = self._text_encoder()
    away = encoder.encode([negative], negative=True)
    condition = encoder.encode([text or '' for text in known])
    return condition, jax.tree.map(
      lambda row: np.repeat(row, len(known), axis=0), away
    )

  def _text_encoder(self) -> Any:
    """The encoder of the run, loaded once."""
    if self._encoder is None:
      from pixeldit_jax.encoders.text import open_encoder

      if self._workdir is None:
        raise UserError(
          'a released file of texts has no encoder: make a workdir of it with '
          'pixeldit convert --text_encoder=, and load that.'
        )
      self._encoder = open_encoder(trained_on.read_text_encoder(self._workdir))
    return self._encoder


def abstract_conditions(config: ConfigDict) -> tuple[Any, Any, Any]:
  """Shapes of what `Sampler.jitted` takes after the weights.

  Returns:
    Indices of the images, their condition and the one of the other branch, for
    a batch of `config.sampler.batch_size`.
  """
  model, B = config.model, config.sampler.batch_size
  indices: Any = jax.ShapeDtypeStruct((B,), jnp.int32)
  if not model.text_width:
    return indices, indices, None
  shape = (B, model.text_tokens, model.text_width)
  tokens: Any = jax.ShapeDtypeStruct(shape, jnp.bfloat16)  # of encoders
  mask: Any = None
  if model.text_mask:
    mask = jax.ShapeDtypeStruct(shape[:2], jnp.bool_)
  text = TextCondition(tokens, mask)
  return indices, text, text
