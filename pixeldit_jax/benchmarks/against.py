"""Our network and the public PyTorch code of the same, timed in turn."""

import contextlib
import copy
import importlib.util
import multiprocessing
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from pixeldit_jax.benchmarks.pytorch_networks import NETWORKS, Work, serve
from pixeldit_jax.benchmarks.step_time import (
  Report,
  sampling_call,
  training_call,
)
from pixeldit_jax.config import model_config
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.families import family_of


def measure_against(
  config: ConfigDict, checkout: str, what: str, rounds: int
) -> Report:
  """Times a step or a sampling loop of both, one after the other, in rounds.

  Ours is complete, but for a teacher of REPA, which theirs has not here
  either. Both have random weights and images, the same sizes, the same batch,
  and run on the same devices; a GPU is theirs too where PyTorch sees one.

  Args:
    config: of a run: a network of `NETWORKS` with classes.
    checkout: folder of the public code.
    what: 'train', or 'sample' with solver=euler (ddpm or ddim of DiT).
    rounds: in which each is timed once.

  Returns:
    Seconds, least and median, of both; `ratio`, ours over theirs, of each; the
    load of the machine before it began.

  Raises:
    UserError: a network or sampler that cannot be compared, a folder that is
      no such checkout, or a network there that cannot run here.
  """
  plain = copy.deepcopy(config)
  plain.repa.weight = 0.0
  work = _work(plain, checkout, what)
  load = os.getloadavg()[0]
  make = training_call if what == 'train' else sampling_call
  with _other(work) as theirs, make(plain) as call:
    _seconds(call)  # compiles
    seconds = [(_seconds(call), theirs()) for _ in range(rounds)]
  ours, others = zip(*seconds)
  return dict(
    network=work.network,
    rounds=float(rounds),
    load_before=load,
    seconds_min=min(ours),
    seconds_median=statistics.median(ours),
    theirs_min=min(others),
    theirs_median=statistics.median(others),
    ratio_of_minima=min(ours) / min(others),
    ratio_of_medians=statistics.median(ours) / statistics.median(others),
  )


def _seconds(call: Callable[[], object]) -> float:
  started = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - started


def _work(config: ConfigDict, checkout: str, what: str) -> Work:
  if what not in ('train', 'sample'):
    raise UserError(f'--what={what} with --against: train or sample.')
  if importlib.util.find_spec('torch') is None:
    raise UserError(
      "--against needs PyTorch: pip install 'pixeldit_jax[torch]'."
    )
  model, sampler = model_config(config), config.sampler
  family, departures = family_of(model)
  if family not in NETWORKS or departures or not model.num_classes:
    raise UserError(
      f'{family} with {departures or "texts"} has no public network to stand '
      f'against: use {", ".join(NETWORKS)} with classes, unchanged.'
    )
  if what == 'sample' and sampler.solver not in ('euler', 'ddpm', 'ddim'):
    raise UserError(
      f'sampler.solver={sampler.solver}: the other side draws by guided Euler '
      'steps; add --config.sampler.solver=euler (ddpm with model=dit).'
    )
  file = pathlib.Path(checkout, NETWORKS[family].file)
  if not file.is_file():
    raise UserError(
      f'--against={checkout}: there is no {NETWORKS[family].file}; give the '
      f'folder of a checkout of the public {family}.'
    )
  side = config.data.resolution
  B = config.data.batch_size if what == 'train' else sampler.batch_size
  return Work(
    checkout=str(pathlib.Path(checkout).absolute()),
    network=family,
    sizes=NETWORKS[family].arguments(model, side),
    shape=(B, model.in_channels, side, side),
    what=what,
    bfloat16=model.dtype == 'bfloat16',
    steps=sampler.steps,
    clip=config.optimizer.clip_norm,
  )


@contextlib.contextmanager
def _other(work: Work) -> Iterator[Callable[[], float]]:
  """A process that times the public network: f() -> seconds."""
  context = multiprocessing.get_context('spawn')
  ours, theirs = context.Pipe()
  process = context.Process(target=serve, args=(theirs, work), daemon=True)
  process.start()
  theirs.close()

  def answer() -> str | float:
    try:
      value = ours.recv()
    except EOFError:
      value = 'its process ended'
    if isinstance(value, float) or value == 'ready':
      return value
    raise UserError(
      f'the {work.network} of {work.checkout} cannot run here: {value}'
    )

  def timed() -> float:
    ours.send(True)
    return float(answer())

  try:
    answer()
    yield timed
  finally:
    process.kill()
    process.join()
