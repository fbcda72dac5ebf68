"""Prepares images for training: from any source to ArrayRecord shards.

  pixeldit prepare-data --source=folder:/data/imagenet/train \\
    --out=/data/imagenet256 --resolution=256

Train on the result with --config.data.source=shards:/data/imagenet256. After
an interruption, the same command goes on where it was.

--features=facebook/dinov2-base (or a file of its weights) then stores what this
teacher sees in each image, for REPA without running it:
--config.repa.teacher=features.

--latents=stabilityai/sd-vae-ft-ema (or a file) stores the latents of an
autoencoder, for networks that see these: --config.latents.autoencoder=.

--dask=tcp://host:8786 has the workers of a Dask cluster do both, to the same
bytes (launch/README.md tells how to start one). --plan says how large the
shards will be and how long they take, from a sample, and writes nothing.
"""

import contextlib
import sys
import time

from absl import flags

from pixeldit_jax.cli import path_flag, run_command
from pixeldit_jax.data.sources.kinds import KINDS
from pixeldit_jax.errors import UserError

_SOURCE = path_flag.define(
  'source',
  None,
  '\n'.join(
    [
      'what to read: a path whose kind is clear, or one of',
      *(f'{kind.form}: {kind.help}' for kind in KINDS.values()),
    ]
  ),
  required=True,
  kinds=True,
)
_OUT = path_flag.define_out('folder to write')
_RESOLUTION = flags.DEFINE_integer('resolution', 256, 'side in pixels')
_BUCKETS = flags.DEFINE_bool(
  'buckets', False, 'keep the aspect ratio, in buckets, for text to image'
)
_ENCODING = flags.DEFINE_enum(
  'encoding', 'png', ['png', 'jpeg'], 'png is lossless'
)
_QUALITY = flags.DEFINE_integer('quality', 95, 'of jpeg, 1 to 100')
_SHARD_SIZE = flags.DEFINE_integer(
  'shard_size', 0, 'images per shard; 0: about 64 shards, of up to 2048'
)
_MAX_BAD_FILES = flags.DEFINE_integer(
  'max_bad_files', 100, 'stop at more files than this that cannot be used'
)
_PROCESSES = flags.DEFINE_integer('processes', 0, '0: one per core')
_FEATURES = path_flag.define(
  'features',
  None,
  'teacher whose features are stored too: its name or file',
  schemes=path_flag.BUCKETS,
)
_LATENTS = path_flag.define(
  'latents',
  None,
  'autoencoder whose latents are stored: its name or file',
  schemes=path_flag.BUCKETS,
)
_LATENT_TILE = flags.DEFINE_integer(
  'latent_tile',
  0,
  'side in pixels of the tiles that --latents encodes large pictures by; they '
  'overlap by a quarter; 0: a picture at once',
  lower_bound=0,
)
_PATCH_SIZE = flags.DEFINE_integer(
  'patch_size', 16, 'of the network, for --buckets and --features'
)
_DASK = flags.DEFINE_string(
  'dask', None, 'address or file of the scheduler whose workers do the work'
)
_PLAN = flags.DEFINE_bool('plan', False, 'only say what it would take')
_PRICE = flags.DEFINE_float(
  'price', 0.0, 'of an hour of one core, for the cost that --plan tells'
)


def main():
  # Imported here: --help has no need of them.
  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.data.pipeline.loader_options import usable_cores
  from pixeldit_jax.data.prepare import dask_runner, prepare
  from pixeldit_jax.data.prepare.plan import plan
  from pixeldit_jax.data.prepare.shard_job import run_here
  from pixeldit_jax.data.prepare.write_shard import PrepareSettings

  start_log()
  begin = time.perf_counter()
  settings = PrepareSettings(
    source=_SOURCE.value,
    resolution=_RESOLUTION.value,
    bucketed=_BUCKETS.value,
    encoding=_ENCODING.value,
    quality=_QUALITY.value,
    shard_size=_SHARD_SIZE.value,
    patch_size=_PATCH_SIZE.value,
  )
  with contextlib.ExitStack() as stack:
    runner, cores = None, _PROCESSES.value or usable_cores()
    if _DASK.value:
      runner, cores = stack.enter_context(dask_runner.connect(_DASK.value))
    if _PLAN.value:
      print(plan(settings).describe(max(1, cores), _PRICE.value))
      return
    stores = [
      make(settings, name)
      for make, name in (
        (_make_store, _FEATURES.value),
        (_store_latents, _LATENTS.value),
      )
      if name
    ]
    try:
      manifest = prepare.prepare(
        settings,
        _OUT.value,
        max_bad_files=_MAX_BAD_FILES.value,
        num_processes=_PROCESSES.value,
        runner=runner,
      )
      for store in stores:
        store(_OUT.value, runner or run_here)
    except KeyboardInterrupt:
      sys.exit('prepare-data: stopped; the same command goes on from here')
  print(prepare.summary(manifest))
  seconds = time.perf_counter() - begin
  print(
    f'{seconds:.1f} s; look at {_OUT.value}/contact_sheet.png. Next:\n'
    '  pixeldit train --config=... --workdir=... '
    f'--config.data.source=shards:{_OUT.value}'
  )


def _make_store(settings, teacher):
  """f(out, runner) stores the features; fails before any work if it would."""
  from pixeldit_jax.data.prepare.teacher_features import Teacher, store

  if settings.bucketed:
    raise UserError('--features are of squares: leave out --buckets')
  features = Teacher(teacher, _PATCH_SIZE.value)
  meta = features.describe(settings.resolution)
  return lambda out, runner: store(out, features, meta, runner=runner)


def _store_latents(settings, name):
  """f(out, runner) stores the latents; fails before any work if it would."""
  from pixeldit_jax.data.prepare.latents import Moments, store_latents

  if settings.bucketed:
    raise UserError('--latents are of squares: leave out --buckets')
  moments = Moments(name, tile=_LATENT_TILE.value)
  meta = moments.describe(settings.resolution)
  return lambda out, runner: store_latents(out, moments, meta, runner=runner)


if __name__ == '__main__':
  run_command.run(main)
