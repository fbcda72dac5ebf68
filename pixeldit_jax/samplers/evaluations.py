"""How often a sampling loop evaluates the network: its cost."""

from ml_collections import ConfigDict

from pixeldit_jax.samplers.grid import time_grid


def num_function_evaluations(sampler: ConfigDict) -> int:
  """Evaluations of the network for one image (NFE), those of guidance too.

  Args:
    sampler: `config.sampler`. Guidance evaluates the network a second time at
      times strictly inside its interval.
  """
  times = time_grid(sampler.steps, sampler.shift, sampler.start)
  evaluated = list(times[:-1])
  if sampler.solver == 'heun':
    evaluated += list(times[1:-1])
  if sampler.guidance == 1:
    return len(evaluated)
  low, high = sampler.interval
  return len(evaluated) + sum(low < t < high for t in evaluated)
