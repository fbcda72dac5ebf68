"""The folders of the checkpoints of a run: WORKDIR/checkpoints/STEP/ITEM."""

import orbax.checkpoint as ocp
from etils import epath

from pixeldit_jax.storage import buckets
from pixeldit_jax.train.checkpoint import orbax_in_buckets

FOLDER = 'checkpoints'
DAMAGED = 'damaged'  # next to it: checkpoints that a start found damaged
ITEMS = ('weights', 'ema', 'opt_state', 'progress', 'projector')


def folder_of(workdir: str) -> epath.Path:
  """The folder of the checkpoints of a run, on disk or in a bucket."""
  buckets.check(workdir)
  if buckets.is_remote(workdir):
    orbax_in_buckets.enable(workdir.partition('://')[0])
  path = epath.Path(workdir)
  return (path if buckets.is_remote(workdir) else path.absolute()) / FOLDER


def steps_in(folder: epath.Path) -> list[int]:
  """The steps that were committed, in order."""
  return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []
