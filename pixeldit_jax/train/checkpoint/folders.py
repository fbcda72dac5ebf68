"""The folders of the checkpoints of a run: WORKDIR/checkpoints/STEP/ITEM."""

import orbax.checkpoint as ocp
from etils import epath

from pixeldit_jax import buckets, files

FOLDER = 'checkpoints'
DAMAGED = 'damaged'  # next to it: checkpoints that a start found damaged
ITEMS = ('weights', 'ema', 'opt_state', 'progress', 'projector')


def folder_of(workdir: str) -> epath.Path:
  """The folder of the checkpoints of a run, on disk or in a bucket."""
  buckets.check(workdir)
  path = epath.Path(workdir)
  return (path if files.is_remote(workdir) else path.absolute()) / FOLDER


def steps_in(folder: epath.Path) -> list[int]:
  """The steps that were committed, in order."""
  return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []
