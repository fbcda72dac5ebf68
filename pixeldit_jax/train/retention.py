"""Which checkpoints of a run are kept: the newest, every n-th, and the best."""

from collections.abc import Collection, Mapping

from ml_collections import ConfigDict


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
  checkpoint: ConfigDict,
) -> int | None:
  """The step whose `checkpoint.best` is best; None where none has it.

  Args:
    steps: of all checkpoints.
    numbers: what evaluations found, by step.
    checkpoint: `config.checkpoint`.
  """
  values = {
    step: numbers[step][checkpoint.best]
    for step in steps
    if checkpoint.best in numbers.get(step, {})
  }
  if not values:
    return None
  choose = {'lowest': min, 'highest': max}[checkpoint.best_is]
  # Of equal ones the newest.
  return choose(sorted(values, reverse=True), key=values.get)
