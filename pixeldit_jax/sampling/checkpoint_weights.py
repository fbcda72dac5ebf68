"""The weights of a run on the devices, and what of it decides its images."""

from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config import model_config
from pixeldit_jax.sampling.fingerprint import fingerprint
from pixeldit_jax.train.checkpoint.manager import restore_weights
from pixeldit_jax.typing import PyTree


def restore_run(
  config: ConfigDict, workdir: str, *, ema: bool = True, step: int | None = None
) -> tuple[Mesh, PyTree, int]:
  """The mesh, the weights placed on it, and their step; in all processes.

  Args:
    config: of the run.
    workdir: its folder.
    ema: the average of the weights, or the last.
    step: of the checkpoint, by default the newest.

  Raises:
    FileNotFoundError: the run has no such checkpoint.
  """
  mesh = sharding.make_mesh(config.mesh)
  rules = sharding.make_rules(config.mesh)
  weights, step = restore_weights(
    workdir, model_config(config), mesh, ema=ema, step=step, rules=rules
  )
  return mesh, weights, step


def settings_of(
  config: ConfigDict, weights: PyTree, *, ema: bool, step: int
) -> dict[str, Any]:
  """All that decides an image but its place and its label or prompt, as JSON.

  The arguments are those of `restore_run`, and what it gave.
  """
  sampler = config.sampler.to_dict()
  sampler.pop('batch_size')
  return dict(
    sampler=sampler,
    seed=config.seed,
    resolution=config.data.resolution,
    dtype=config.model.dtype,
    weights=fingerprint(weights),
    step=step,
    ema=ema,
  )
