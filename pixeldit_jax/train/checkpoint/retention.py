"""Chooses the checkpoints to keep: the newest, every n-th, and the best."""

import math
from collections.abc import Collection, Mapping


def kept(
  steps: Collection[int],
  *,
  newest: int,
  period: int = 0,
  best: int | None = None,
) -> set[int]:
  """The steps to keep.

  Args:
    steps: of all checkpoints.
    newest: how many of the last ones.
    period: and all multiples of it; 0 for none.
    best: and this one.
  """
  last = sorted(steps)[-newest:]
  return {
    step
    for step in steps
    if step in last or step == best or (period and step % period == 0)
  }


def best_step(
  steps: Collection[int],
  numbers: Mapping[int, Mapping[str, float]],
  metric: str,
  best_is: str,
) -> int | None:
  """The step whose number is best; None where none has it.

  Args:
    steps: of all checkpoints.
    numbers: what evaluations found, by step.
    metric: the name of a number; '' is none.
    best_is: lowest or highest. What is not finite is never best.
  """
  # With a NaN among them the best depends on their order:
  # findings/orbax_one_nan_metric_deletes_the_best.sh
  values = {
    step: numbers[step][metric]
    for step in steps
    if math.isfinite(numbers.get(step, {}).get(metric, math.nan))
  }
  if not values:
    return None
  choose = {'lowest': min, 'highest': max}[best_is]
  # Of equal ones the newest.
  return choose(sorted(values, reverse=True), key=lambda step: values[step])
