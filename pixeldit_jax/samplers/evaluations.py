"""How often a sampling loop evaluates the network: its cost."""

from ml_collections import ConfigDict

from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import is_guided


def num_function_evaluations(sampler: ConfigDict) -> int:
  """Evaluations of the network for one image (NFE), those of guidance too.

  Args:
    sampler: `config.sampler`. Guidance evaluates the network a second time at
      times inside its interval.
  """
  times = time_grid(sampler.steps, sampler.shift, sampler.start)
  starts, ends = list(times[:-1]), list(times[1:-1])
  if sampler.interval_time == 'step':
    ends = starts[:-1]  # where the steps start that have a slope at their end
  decided_at = starts
  if sampler.solver == 'heun':
    decided_at = starts + ends
  elif sampler.solver == 'heun_reuse':
    decided_at = starts[:1] + ends
  if sampler.guidance == 1 or sampler.solver == 'jump':
    return len(decided_at)
  guided = (
    is_guided(t, sampler.interval, sampler.interval_bounds) for t in decided_at
  )
  return len(decided_at) + sum(map(bool, guided))
