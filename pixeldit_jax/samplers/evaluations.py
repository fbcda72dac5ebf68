"""How often a sampling loop evaluates the network: its cost."""

from ml_collections import ConfigDict

from pixeldit_jax.flow.stages import SHARES
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.cost import decoder_flops, forward_flops
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import is_guided
from pixeldit_jax.samplers.solvers import OF_NOISE


def sampling_flops(config: ConfigDict, model: ModelConfig) -> float:
  """Operations of the network for one image, by `config.sampler`."""
  side, sampler = config.data.resolution, config.sampler
  if not model.size_embed:
    evaluations = num_function_evaluations(config)
    complete = forward_flops(model, side, side)
    every = sampler.reuse_patch_tokens
    if every == 1:
      return evaluations * complete
    decoder = decoder_flops(model, side, side)
    groups = -(-sampler.steps // every) * (1 if sampler.guidance == 1 else 2)
    return evaluations * decoder + groups * (complete - decoder)
  count = config.flow.stages
  sides = [side // 2**n for n in range(count - 1, -1, -1)]
  return sum(
    evaluations * forward_flops(model, s, s)
    for s, evaluations in zip(sides, _of_stages(sampler, count))
  )


def num_function_evaluations(config: ConfigDict) -> int:
  """Evaluations of the network for one image (NFE), those of guidance too.

  Args:
    config: of a run; its sampler. Guidance evaluates the network a second time
      at times inside its interval, DiT always, PixelFlow from the second stage
      on. dopri5 takes as many as it needs: six a step are counted.
  """
  sampler = config.sampler
  if config.model.size_embed:
    return sum(_of_stages(sampler, config.flow.stages))
  if sampler.solver in OF_NOISE:
    return sampler.steps * (1 if sampler.guidance == 1 else 2)
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


def _of_stages(sampler: ConfigDict, count: int) -> list[int]:
  """Evaluations in each stage."""
  steps = sampler.steps * (6 if sampler.solver == 'dopri5' else 1)
  shares = SHARES.get(count, (1.0,) * count)
  guided = [sampler.guidance != 1 and share > 0 for share in shares]
  return [steps * (1 + twice) for twice in guided]
