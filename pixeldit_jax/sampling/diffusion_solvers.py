"""What DiT and PixelFlow draw with, in place of the solver of one velocity."""

from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.diffusion import linear_diffusion, respaced
from pixeldit_jax.flow.stages import Stages, block_noise
from pixeldit_jax.samplers.ddpm import ddim, ddpm, guide_noise
from pixeldit_jax.samplers.noise import sample_noise
from pixeldit_jax.samplers.solvers import OF_NOISE, OF_STAGES, get_solver
from pixeldit_jax.samplers.stages import sample_stages
from pixeldit_jax.sampling.guided_velocity import Output
from pixeldit_jax.typing import Int, Key

_STEPS = 2**32 - 1  # folded into the key for the noise after the first


def check_solver(config: ConfigDict) -> None:
  """Raises UserError for a solver that a network does not draw with."""
  solver, model = config.sampler.solver, config.model
  _check_reuse(config)
  _check_shift(config)
  if model.prediction == 'noise':
    known, what = OF_NOISE, "model.prediction='noise' (DiT)"
    respaced(linear_diffusion(), config.sampler.steps)
  elif model.size_embed:
    known, what = OF_STAGES, 'model.size_embed=True (PixelFlow)'
    if config.sampler.guidance != 1:
      Stages(config.flow.stages).guidance(1.0)
  else:
    get_solver(solver)
    return
  if solver not in known:
    raise UserError(
      f'sampler.solver={solver!r} with {what}: use {" or ".join(known)}.'
    )


def _check_reuse(config: ConfigDict) -> None:
  """Raises UserError for a network whose steps cannot share patch tokens."""
  model, every = config.model, config.sampler.reuse_patch_tokens
  if every == 1:
    return
  if model.mean_flow != 'none' or config.sampler.solver == 'jump':
    why = 'an average velocity is of one evaluation'
  elif not model.pixel_depth:
    why = 'the network has no pixel path (model.pixel_depth=0)'
  elif model.pixel_adaln == 'global':
    why = 'its pixel path is modulated by the time alone (pixel_adaln=global)'
  else:
    return
  raise UserError(f'sampler.reuse_patch_tokens={every}: {why}; set it to 1.')


def _check_shift(config: ConfigDict) -> None:
  """Raises UserError for a way of sampling without movable patches."""
  if not config.sampler.shift_patches:
    return
  if config.sampler.reuse_patch_tokens > 1:
    why = 'tokens that several steps share (reuse_patch_tokens) do not move'
  elif config.model.prediction == 'noise' or config.model.size_embed:
    why = 'DiT and PixelFlow draw by no velocity from noise to image'
  else:
    return
  raise UserError(f'sampler.shift_patches=True: {why}; set it to False.')


def diffusion_solver(
  config: ConfigDict,
  branches: tuple[Output, Output],
  guidance: float | jax.Array,
  key: Key,
  indices: Int[jax.Array, 'B'],
) -> Callable[..., Any]:
  """f(noise, integrate): DDPM or DDIM over `sampler.steps` steps of DiT's.

  Args:
    config: of the run.
    branches: of `guided_velocity.branches`.
    guidance: the scale, of the first three channels of the noise.
    key: of the seed.
    indices: of the images, which decide their noise with the seed.
  """
  diffusion = respaced(linear_diffusion(), config.sampler.steps)
  solve = ddim if config.sampler.solver == 'ddim' else ddpm
  plain = isinstance(guidance, int | float) and guidance == 1

  def predict(x, t):
    given, none = branches
    if plain:
      return given(x, t)
    return guide_noise(given(x, t), none(x, t), guidance)[0]

  def draw(x, integrate):
    def step_noise(i):
      of_step = jax.random.fold_in(jax.random.fold_in(key, _STEPS), i)
      return sample_noise(of_step, indices, x.shape[1:])

    return solve(predict, x, diffusion, step_noise, integrate)

  return draw


def stage_solver(
  config: ConfigDict,
  branches: tuple[Output, Output],
  guidance: float | jax.Array,
  key: Key,
  indices: Int[jax.Array, 'B'],
) -> Callable[..., Any]:
  """f(noise of the first stage, integrate): PixelFlow's images.

  The arguments are those of `diffusion_solver`; the guidance is of the last
  stage. `integrate` is not asked: states have several sizes.
  """
  stages = Stages(config.flow.stages)

  def draw(x, integrate):
    del integrate
    noise, (_, h, w, C) = [x], x.shape
    for stage in range(1, stages.count):
      of_stage = jax.random.fold_in(jax.random.fold_in(key, _STEPS), stage)
      normal = sample_noise(of_stage, indices, (h, w, 4 * C))
      noise.append(block_noise(normal.reshape(-1, h, w, C, 4)))
      h, w = 2 * h, 2 * w
    ends = sample_stages(
      *branches,
      noise,
      stages=stages,
      scale=guidance,
      steps=config.sampler.steps,
      shift=config.sampler.shift,
      solver=config.sampler.solver,
    )
    return ends[-1][1]

  return draw
