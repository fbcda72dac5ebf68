"""The protocol of evaluators, which are called on the EMA in training."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from pixeldit_jax.typing import PyTree, UInt8

Scalar = float | np.floating
Image = UInt8[np.ndarray, 'H W 3']


def never_stop() -> None:
  """What is called between batches where nobody asks to stop."""


class Evaluator(Protocol):
  """Measures or draws something with the EMA, in all processes.

  Attributes:
    every: steps between calls; it is also called after the last step.
  """

  every: int

  def __call__(
    self,
    step: int,
    ema_params: PyTree,
    check_stop: Callable[[], None] = never_stop,
  ) -> Iterator[tuple[str, Scalar | Image]]:
    """Yields metrics and pictures by name.

    Args:
      step: of the run.
      ema_params: the moving average of the weights.
      check_stop: called after each batch of samples, equally often in all
        processes; it raises where the run is to stop.
    """
    ...


def split_results(
  results: Iterable[tuple[str, Scalar | Image]],
) -> tuple[dict[str, float], dict[str, Image]]:
  """Separates the metrics of evaluators from their pictures."""
  metrics, images = {}, {}
  for name, value in results:
    if isinstance(value, np.ndarray) and value.ndim == 3:
      images[name] = value
    else:
      metrics[name] = float(value)
  return metrics, images
